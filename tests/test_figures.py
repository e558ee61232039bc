"Every figure on made-up results, large and small: labelled, nothing clipped, no two texts on one another, the same bytes each time."
from itertools import product

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from matplotlib.image import AxesImage

from idgi_repro.errors import InputError
from idgi_repro.papers import idgi as P
from idgi_repro.papers.idgi import PAPER, PAPERS
from idgi_repro.report import figures as F, maps as M, style as S, tables as T
from idgi_repro.report.page import render
from idgi_repro.report.results import read
from simulate import simulate

METRICS, TITLES = {m.name: m for m in PAPER.metrics}, [m.title for m in PAPER.methods]
BEYOND = [m.name for m in PAPER.metrics[6:]]
gains = lambda rows, **kw: T.gains(rows, PAPER, **kw)
TEN = ['densenet121', 'inception_v3', 'mini_vgg', 'resnet50@IMAGENET1K_V1', 'realdata:mobilenet_v2',
       'realdata:squeezenet1_0 on imagenet-sample', 'net_of:a_user', 'resnet152', 'vgg16', 'vgg19']
SIZES = dict(
    usual=dict(), ten=dict(networks=TEN, protocols=('corrected',), images=6, steps=(8, 16, 32, 64, 128)),
    one_image=dict(networks=['mini_vgg'], images=1, steps=(4,)),
    one_method=dict(networks=['mini_vgg'], methods=('gig', 'gig+idgi'), protocols=('published',), images=12),
    few_metrics=dict(images=12, without=[c for m in [*METRICS][1:] for c in (m, f'{m}_curve') if c == m or m[:3] in ('sic', 'aic')]))


@pytest.fixture(scope='module', params=SIZES)
def rows(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('results')
    simulate(folder, **dict(networks=['mini_resnet', 'inception_v3'], images=12, steps=(8, 128)) | SIZES[request.param])
    return read(folder)[0]


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close('all')


def ticks(axis): return [t.label1 for t in axis._update_ticks() if t.label1.get_visible() and t.label1.get_text()]

def texts(fig):
    "Every text that is drawn."
    for ax in fig.axes:
        if not ax.axison: continue
        yield from (t for t in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts) if t.get_text())
        yield from (*ticks(ax.xaxis), *ticks(ax.yaxis))
    legends = [*fig.legends, *(ax.get_legend() for ax in fig.axes if ax.get_legend())]
    yield from (t for l in legends for t in l.get_texts())
    yield from (t for t in fig.texts if t.get_text())

def is_text(axis):
    "Whether an axis shows names and not numbers."
    return any(c.isalpha() and c != 'e' for t in ticks(axis) for c in t.get_text())

def check(fig):
    "Labels on all axes with numbers (a row of panels shares its vertical one), no text clipped or on another, no legend on data."
    fig.canvas.draw()
    r = fig.canvas.get_renderer()
    found = [*texts(fig)]
    boxes = np.array([t.get_window_extent(r).extents for t in found])
    w, h = fig.canvas.get_width_height()
    for t, b in zip(found, boxes): assert b[0] >= -1 and b[1] >= -1 and b[2] <= w + 1 and b[3] <= h + 1, f'{t.get_text()!r} is clipped'
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    on = np.argwhere(np.triu(((high - low) > 1).all(2), 1))
    assert not len(on), [(found[i].get_text(), found[j].get_text()) for i, j in on]
    for ax in fig.axes:
        if not ax.axison or any(isinstance(i, AxesImage) for i in ax.images): continue
        if ticks(ax.xaxis) and not is_text(ax.xaxis): assert ax.get_xlabel(), ax
        left = [o for o in fig.axes if o.get_subplotspec() and ax.get_subplotspec()
                and o.get_subplotspec().rowspan == ax.get_subplotspec().rowspan]
        if ticks(ax.yaxis) and not is_text(ax.yaxis): assert any(o.get_ylabel() for o in left) or ax.get_ylabel(), ax
    for l in fig.legends:
        for ax in fig.axes: assert not l.get_window_extent(r).overlaps(ax.get_window_extent(r)), 'the legend covers a panel'
    assert plt.rcParams['text.parse_math'] and plt.rcParams['figure.max_open_warning'] == 20      # the style is left behind
    return fig


def test_curves(rows):
    for protocol, metric in product(sorted(rows.protocol.unique()), ('insertion', 'stability_l1')):
        check(F.curves(rows, PAPER, metric, protocol))

def test_six_metrics(rows):
    fig = check(F.by_metric(rows, PAPER, PAPERS, P.chosen(rows.network.unique()), rows.protocol.iloc[0]))
    assert [ax.get_title() for ax in fig.axes] == [METRICS[c].named for c in PAPERS if c in rows and rows[c].notna().any()]

def test_information_curves(rows):
    drawn = [c for c in PAPERS[1:] if f'{c}_curve' in rows]
    for metric in drawn[:2]: check(F.information_plot(rows, PAPER, metric, rows.protocol.iloc[0]))

def test_gains(rows):
    t = gains(rows, protocol=rows.protocol.iloc[0])
    check(F.gain_plot(t, PAPER, PAPERS))
    more = [m for m in BEYOND if m in rows]
    if more: check(F.gain_plot(t, PAPER, more))

def test_protocols(rows): check(F.protocol_plot(rows, PAPER, PAPERS))


def test_gains_of_every_size_have_readable_axes(rows):
    "A metric in units of 1e-9 says so in the label, and its ticks stay apart."
    t = gains(rows, protocol=rows.protocol.iloc[0])
    here = t.frame.metric == METRICS['insertion'].title
    for c in ('difference', 'low', 'high'): t.frame[c] = pd.to_numeric(t.frame[c], errors='coerce').where(~here, lambda v: v*3e-7)
    fig = check(F.gain_plot(t, PAPER, ['insertion']))
    assert '10⁻' in fig.axes[0].get_xlabel()


def test_errors_that_differ_by_orders_of_magnitude_are_all_seen(rows):
    "Stability gains of 1 and of 1e-5 stand apart from zero and from one another."
    t = gains(rows, protocol=rows.protocol.iloc[0])
    here = t.frame.metric == METRICS['stability'].title
    if not t.frame[here].images.ne('not run').any(): return
    size = dict(zip(sorted({*t.frame.network}), (1, 1e-2, 1e-5)))
    for c in ('difference', 'low', 'high'):
        t.frame[c] = pd.to_numeric(t.frame[c], errors='coerce').where(~here, lambda v: -np.abs(v)*t.frame.network.map(size).fillna(1))
    ax = check(F.gain_plot(t, PAPER, ['stability'])).axes[0]
    x = np.array([l.get_xdata()[0] for l in ax.lines[1:] if len(l.get_xdata()) == 1])
    apart = ax.transData.transform(np.c_[[0, *x], [0]*(len(x) + 1)])[:, 0]
    assert (apart[0] - apart[1:]).min() > 5


def test_a_point_without_an_interval_is_a_cross(made):
    rows = made[0].assign(reference=made[0].reference.where(made[0]['name'] == 'image-001'))
    fig = check(F.gain_plot(gains(rows), PAPER, ['reference', 'patchiness']))
    assert [{l.get_marker() for l in ax.lines[1:] if len(l.get_xdata()) == 1} for ax in fig.axes] == [{*'os^'}, {'x'}]
    assert 'cross: no interval' in [t.get_text() for t in fig.legends[0].get_texts()]


def test_the_protocols_are_compared_image_by_image(made):
    "What 0.02 for every image changes is seen with an interval far narrower than the images differ."
    rows = made[0]
    fig = check(F.protocol_plot(rows, PAPER, ['insertion']))
    assert [ax.get_title().split('\n')[1] for ax in fig.axes] == ['made_up_a', 'made_up_b']
    for ax in fig.axes:
        drawn = np.concatenate([l.get_ydata() for l in ax.lines if len({*l.get_ydata()}) > 1])
        bars = np.concatenate([np.diff(s[:, 1]) for c in ax.collections for s in c.get_segments()])
        assert drawn.mean() == pytest.approx(-.02, abs=.01) and bars.max() < .06 < .3 < np.ptp(rows.insertion)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    simulate(folder := tmp_path_factory.mktemp('made'), images=12, steps=(8, 32))
    return read(folder)


def test_a_network_that_lacks_a_method_or_a_metric(made):
    rows = made[0]
    rows = rows[~((rows.network == 'made_up_b') & rows.method.str.startswith('gig'))].copy()
    rows.loc[rows.network == 'made_up_b', ['patchiness', 'sic_entropy']] = np.nan
    rows.loc[rows.network == 'made_up_b', 'sic_entropy_curve'] = None
    for fig in (F.curves(rows, PAPER, 'patchiness'), F.information_plot(rows, PAPER, 'sic_entropy')):
        assert [t.get_text() for t in check(fig).axes[1].texts] == ['not run']
    check(F.gain_plot(gains(rows), PAPER, ['sic_entropy', 'patchiness']))


def test_nothing_to_draw_is_said(made):
    rows = made[0].drop(columns=[c for m in PAPERS for c in (m, f'{m}_curve') if c in made[0]])
    with pytest.raises(InputError, match='none of this was run'): F.by_metric(rows, PAPER, PAPERS, 'made_up_b')
    figures, notes = F.all_figures(rows[rows.protocol == 'corrected'], made[1], PAPER, {'gains-corrected': gains(rows)})
    assert not any(k.startswith(('six', 'gains-corrected', 'information', 'protocols')) for k in figures)
    assert 'gains-more-corrected' in figures and 'construction' in figures
    assert 'SIC, entropy; AIC, entropy' in F.undrawn(rows, PAPER)[0] and F.undrawn(rows, PAPER)[0] in notes
    assert F.undrawn(made[0], PAPER) == []


def test_the_statistic_of_sic_is_that_of_the_tables(made):
    rows, t = made[0], T.table(made[0], PAPER, 'sic_entropy').frame.set_index('network')
    drawn = {l.get_color() + l.get_linestyle(): l.get_ydata()[-1] for l in F.by_metric(rows, PAPER, PAPERS, 'made_up_b').axes[4].lines}
    assert sorted(drawn.values()) == pytest.approx(sorted(t.loc['made_up_b', TITLES]))


def maps(titles, side=40):
    rng = np.random.default_rng(0)
    return {t: rng.normal(size=(side, side)) for t in titles}

@pytest.mark.parametrize('labels, titles', [(TEN, TITLES), (['a'], TITLES), (['realdata:mobilenet_v2\nAmerican Staffordshire terrier, 87%'],
    TITLES[:2]), (['$x$', 'b'], TITLES[4:])])
def test_rows_of_maps(labels, titles):
    photo = torch.rand(3, 40, 40)
    check(M.draw_rows([(l, photo, maps(titles)) for l in labels]))

def test_a_map_that_is_zero_and_one_title():
    check(M.draw_maps(torch.rand(3, 40, 40), {'IG': np.zeros((40, 40)), 'GIG': np.ones((40, 40))},
                      'a very long name of a photograph, ' * 4))

WAYS = [(PAPER.method('ig'), P.StraightPath(), None), (PAPER.method('blurig'), P.BlurPath(), lambda t: f'σ = {50*(1-t):.0f} px')]

@pytest.mark.parametrize('steps', [4, 64])
def test_paths(steps):
    fig = check(M.draw_paths(torch.rand(3, 64, 64), WAYS, steps))
    change, covered = (ax for ax in fig.axes if ax.lines)
    assert np.allclose(change.lines[0].get_ydata(), 100/steps, rtol=1e-3)
    assert all(l.get_ydata()[-1] == pytest.approx(100) for l in covered.lines)
    assert change.lines[1].get_ydata()[-steps//4:].sum() > 50            # blur goes at the end

def test_construction():
    fig = check(P.draw_construction())
    exact, first, second = (np.array([l.get_xdata()[0], l.get_ydata()[0]]) for l in fig.axes[0].lines if l.get_marker() in '*s^')
    assert np.linalg.norm(second - exact) < np.linalg.norm(first - exact)
    P.draw_construction(end=(1.5, 1.5)).canvas.draw()                    # the ray may not reach the level: no exact point then


def test_texts_of_users_are_no_formulas(made):
    rows = made[0].assign(network='cost $x_1$ and $y')
    fig = check(F.curves(rows, PAPER, 'insertion'))
    assert '$x_1$' in fig.axes[0].get_title()


def test_looks_differ_without_colour():
    "In grey the three colours are far apart, and every map has a marker and line of its own."
    rgb = [matplotlib.colors.to_rgb(c) for c in dict.fromkeys(m.colour for m in PAPER.methods)]
    assert len(rgb) == 3
    grey = sorted(np.dot(rgb, [.2126, .7152, .0722]))
    assert min(np.diff(grey)) > .1 and grey[-1] < .75
    looks = {(S.look(m)['marker'], str(S.look(m)['ls'])) for m in PAPER.methods}
    assert len(looks) == len(PAPER.methods)


def test_long_texts_are_broken_evenly():
    assert S.wrap('area under the mean curve', 22) == 'area under the\nmean curve'
    assert S.wrap('realdata:squeezenet1_0 on imagenet-sample', 24) == 'realdata:squeezenet1_0\non imagenet-sample'
    assert S.wrap('a\nb', 9) == 'a\nb' and S.wrap('', 9) == '' and max(map(len, S.wrap('x'*30 + '.' + 'y'*30, 24).split('\n'))) == 31


@pytest.mark.parametrize('format', ['png', 'svg'])
def test_the_same_bytes(made, format):
    for draw in (lambda: F.curves(made[0], PAPER, 'sic_entropy'), P.draw_construction,
                 lambda: M.draw_rows([('a', torch.ones(3, 20, 20), maps(TITLES[:2], 20))])):
        fig = draw()
        assert (first := render(fig, format)) == render(fig, format) == render(draw(), format) and len(first) > 1000
        assert b'dc:date' not in first


def test_photographs_that_are_gone_are_notes(tmp_path):
    simulate(tmp_path, ('mini_resnet', 'mini_vgg'), images=12, steps=(8, 32))
    made = read(tmp_path)
    found, notes = P.figures(*made, PAPER, {}, M.Photographs(*made, PAPER))
    assert not {'maps', 'classes', 'paths'} & {*found} and len(notes) == 3 and all('no longer has the weights' in n for n in notes)


@pytest.mark.slow
def test_figures_with_photographs(tmp_path):
    from idgi_repro.study.shard import Shard, run
    run(Shard(network='mini_mobilenet', data='embedded:20', metrics=('insertion',), steps=(4,), stop=2, images=2, out=str(tmp_path)), PAPER)
    rows, manifests = read(tmp_path)
    found, notes = P.figures(rows, manifests, PAPER, {}, M.Photographs(rows, manifests, PAPER))
    assert [k for k in found if k in ('maps', 'classes', 'paths')] == ['maps', 'classes', 'paths'] and not notes
    for p in found.values(): check(p.figure)
    assert len([ax for ax in found['classes'].figure.axes if ax.images]) == 2*2*7


def test_a_method_without_a_path_stands_beside_every_number_of_steps(tmp_path):
    from idgi_repro.records import Method, Paper
    simulate(tmp_path, images=8, steps=(8, 32), pathless=('still',))
    still = Method('still', 'Still', function=lambda subject: None, base='ig', marker='D')
    paper, rows = Paper('p', 'A paper', (*PAPER.methods, still), PAPER.metrics), read(tmp_path)[0]
    line = check(F.curves(rows, paper, 'insertion')).axes[0].lines[-1]
    assert len(line.get_xdata()) == 2 and len({*line.get_ydata()}) == 1
    f = T.by_steps(rows, paper, 'made_up_a').frame.query('metric == "Insertion score" and method == "Still"').iloc[0]
    assert f['8'] == f['32'] == T.table(rows, paper, 'insertion', 8).frame['Still'][0]
    assert T.gains(rows, paper).frame.query('method == "Still"').images.eq('8').any()
