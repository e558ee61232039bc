"Every figure on made-up results, large and small: labelled, nothing clipped, no two texts on one another, the same bytes each time."
from itertools import product

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from matplotlib.image import AxesImage

from idgi_repro import figures as F
from idgi_repro.errors import InputError
from idgi_repro.report.page import render
from idgi_repro.errors import KINDS
from idgi_repro.report.results import read, simulate
from idgi_repro.report.statistics import METRICS
from idgi_repro.report.tables import gains, table
from idgi_repro.study.shard import TITLES

TEN = ['densenet121', 'inception_v3', 'mini_vgg', 'resnet50@IMAGENET1K_V1', 'realdata:mobilenet_v2', 'realdata:squeezenet1_0 on imagenet-sample', 'net_of:a_user', 'resnet152', 'vgg16', 'vgg19']
SIZES = dict(
    usual=dict(), ten=dict(networks=TEN, grids=('closed',), images=6, steps=(8, 16, 32, 64, 128)), one_image=dict(networks=['mini_vgg'], images=1, steps=(4,)),
    one_method=dict(networks=['mini_vgg'], methods=('gig',), grids=('study',), images=12), few_metrics=dict(images=12, without=[c for m in [*METRICS][1:] for c in (m, f'{m}_curve') if c == m or m[:3] in ('sic', 'aic')]))


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
        left = [o for o in fig.axes if o.get_subplotspec() and ax.get_subplotspec() and o.get_subplotspec().rowspan == ax.get_subplotspec().rowspan]
        if ticks(ax.yaxis) and not is_text(ax.yaxis): assert any(o.get_ylabel() for o in left) or ax.get_ylabel(), ax
    for l in fig.legends:
        for ax in fig.axes: assert not l.get_window_extent(r).overlaps(ax.get_window_extent(r)), 'the legend covers a panel'
    assert plt.rcParams['text.parse_math'] and plt.rcParams['figure.max_open_warning'] == 20      # the style is left behind
    return fig


def test_curves(rows):
    for grid, metric in product(sorted(rows.grid.unique()), ('insertion', 'stability_l1')):
        check(F.curves(rows, metric, grid))

def test_six_metrics(rows):
    fig = check(F.six_metrics(rows, F.chosen(rows.network.unique()), rows.grid.iloc[0]))
    assert [ax.get_title() for ax in fig.axes] == [METRICS[c].title for c in F.PAPER if c in rows and rows[c].notna().any()]

def test_information_curves(rows):
    drawn = [c for c in F.PAPER[1:] if f'{c}_curve' in rows]
    for metric in drawn[:2]: check(F.information_plot(rows, metric, rows.grid.iloc[0]))

def test_gains(rows):
    t = gains(rows, grid=rows.grid.iloc[0])
    check(F.gain_plot(t, F.PAPER))
    more = [m for m in METRICS if m not in F.PAPER and m in rows]
    if more: check(F.gain_plot(t, more))

def test_grids(rows): check(F.grid_plot(rows))


def test_gains_of_every_size_have_readable_axes(rows):
    "A metric in units of 1e-9 says so in the label, and its ticks stay apart."
    t = gains(rows, grid=rows.grid.iloc[0])
    here = t.frame.metric == METRICS['insertion'].title
    for c in ('difference', 'low', 'high'): t.frame[c] = pd.to_numeric(t.frame[c], errors='coerce').where(~here, lambda v: v*3e-7)
    fig = check(F.gain_plot(t, ['insertion']))
    assert '10⁻' in fig.axes[0].get_xlabel()


def test_errors_that_differ_by_orders_of_magnitude_are_all_seen(rows):
    "Stability gains of 1 and of 1e-5 stand apart from zero and from one another."
    t = gains(rows, grid=rows.grid.iloc[0])
    here = t.frame.metric == METRICS['stability'].title
    if not t.frame[here].images.ne('not run').any(): return
    size = dict(zip(sorted({*t.frame.network}), (1, 1e-2, 1e-5)))
    for c in ('difference', 'low', 'high'): t.frame[c] = pd.to_numeric(t.frame[c], errors='coerce').where(~here, lambda v: -np.abs(v)*t.frame.network.map(size).fillna(1))
    ax = check(F.gain_plot(t, ['stability'])).axes[0]
    x = np.array([l.get_xdata()[0] for l in ax.lines[1:] if len(l.get_xdata()) == 1])
    apart = ax.transData.transform(np.c_[[0, *x], [0]*(len(x) + 1)])[:, 0]
    assert (apart[0] - apart[1:]).min() > 5


def test_a_point_without_an_interval_is_a_cross(made):
    rows = made[0].assign(reference=made[0].reference.where(made[0]['name'] == 'image-001'))
    fig = check(F.gain_plot(gains(rows), ['reference', 'patchiness']))
    assert [{l.get_marker() for l in ax.lines[1:] if len(l.get_xdata()) == 1} for ax in fig.axes] == [{'x'}, {*'os^'}]
    assert 'cross: no interval' in [t.get_text() for t in fig.legends[0].get_texts()]


def test_the_grids_are_compared_image_by_image(made):
    "What 0.02 for every image changes is seen with an interval far narrower than the images differ."
    rows = made[0]
    fig = check(F.grid_plot(rows, ['insertion']))
    assert [ax.get_title().split('\n')[1] for ax in fig.axes] == ['mini_resnet', 'mini_vgg']
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
    rows = rows[~((rows.network == 'mini_vgg') & (rows.method == 'gig'))].copy()
    rows.loc[rows.network == 'mini_vgg', ['patchiness', 'sic_entropy']] = np.nan
    rows.loc[rows.network == 'mini_vgg', 'sic_entropy_curve'] = None
    for fig in (F.curves(rows, 'patchiness'), F.information_plot(rows, 'sic_entropy')): assert [t.get_text() for t in check(fig).axes[1].texts] == ['not run']
    check(F.gain_plot(gains(rows), ['sic_entropy', 'patchiness']))


def test_nothing_to_draw_is_said(made):
    rows = made[0].drop(columns=[c for m in F.PAPER for c in (m, f'{m}_curve') if c in made[0]])
    with pytest.raises(InputError, match='none of this was run'): F.six_metrics(rows, 'mini_vgg')
    figures = F.all_figures(rows[rows.grid == 'closed'], {'gains-closed': gains(rows)})
    assert not any(k.startswith(('six', 'gains-closed', 'information', 'grids')) for k in figures) and 'gains-more-closed' in figures and 'construction' in figures
    assert 'SIC, entropy; AIC, entropy' in F.undrawn(rows)[0] and F.undrawn(made[0]) == []


def test_the_statistic_of_sic_is_that_of_the_tables(made):
    rows, t = made[0], table(made[0], 'sic_entropy').frame.set_index('network')
    drawn = {l.get_color() + l.get_linestyle(): l.get_ydata()[-1] for l in F.six_metrics(rows, 'mini_vgg').axes[4].lines}
    assert sorted(drawn.values()) == pytest.approx(sorted(t.loc['mini_vgg', [TITLES[k] for k in KINDS]]))


def maps(kinds, side=40):
    rng = np.random.default_rng(0)
    return {TITLES[k]: rng.normal(size=(side, side)) for k in kinds}

@pytest.mark.parametrize('labels, kinds', [(TEN, KINDS), (['a'], KINDS), (['realdata:mobilenet_v2\nAmerican Staffordshire terrier, 87%'], KINDS[:2]), (['$x$', 'b'], KINDS[4:])])
def test_rows_of_maps(labels, kinds):
    photo = torch.rand(3, 40, 40)
    check(F.draw_rows([(l, photo, maps(kinds)) for l in labels]))

def test_a_map_that_is_zero_and_one_title(): check(F.draw_maps(torch.rand(3, 40, 40), {'IG': np.zeros((40, 40)), 'GIG': np.ones((40, 40))}, 'a very long name of a photograph, ' * 4))

@pytest.mark.parametrize('steps', [4, 64])
def test_paths(steps):
    fig = check(F.draw_paths(torch.rand(3, 64, 64), steps))
    change, covered = (ax for ax in fig.axes if ax.lines)
    assert np.allclose(change.lines[0].get_ydata(), 100/steps, rtol=1e-3) and all(l.get_ydata()[-1] == pytest.approx(100) for l in covered.lines)
    assert change.lines[1].get_ydata()[-steps//4:].sum() > 50            # blur goes at the end

def test_construction():
    fig = check(F.draw_construction())
    exact, first, second = (np.array([l.get_xdata()[0], l.get_ydata()[0]]) for l in fig.axes[0].lines if l.get_marker() in '*s^')
    assert np.linalg.norm(second - exact) < np.linalg.norm(first - exact)
    F.draw_construction(end=(1.5, 1.5)).canvas.draw()                    # the ray may not reach the level: no exact point then


def test_texts_of_users_are_no_formulas(made):
    rows = made[0].assign(network='cost $x_1$ and $y')
    fig = check(F.curves(rows, 'insertion'))
    assert '$x_1$' in fig.axes[0].get_title()


def test_looks_differ_without_colour():
    "In grey the three colours are far apart, and every map has a marker and line of its own."
    rgb = [matplotlib.colors.to_rgb(c) for c in F.COLOURS.values()]
    grey = sorted(np.dot(rgb, [.2126, .7152, .0722]))
    assert min(np.diff(grey)) > .1 and grey[-1] < .75
    looks = {(F._look('k', F.MARKERS[m], r)['marker'], str(F._look('k', F.MARKERS[m], r)['ls'])) for m, r in KINDS}
    assert len(looks) == len(KINDS)


def test_long_texts_are_broken_evenly():
    assert F._wrap('area under the mean curve', 22) == 'area under the\nmean curve'
    assert F._wrap('realdata:squeezenet1_0 on imagenet-sample', 24) == 'realdata:squeezenet1_0\non imagenet-sample'
    assert F._wrap('a\nb', 9) == 'a\nb' and F._wrap('', 9) == '' and max(map(len, F._wrap('x'*30 + '.' + 'y'*30, 24).split('\n'))) == 31


@pytest.mark.parametrize('format', ['png', 'svg'])
def test_the_same_bytes(made, format):
    for draw in (lambda: F.curves(made[0], 'sic_entropy'), F.draw_construction, lambda: F.draw_rows([('a', torch.ones(3, 20, 20), maps(KINDS[:2], 20))])):
        fig = draw()
        assert (first := render(fig, format)) == render(fig, format) == render(draw(), format) and len(first) > 1000
        assert b'dc:date' not in first


def test_photographs_that_are_gone_are_notes(made):
    found, notes = F.photo_figures(*made)
    assert not found and len(notes) == 3 and all('no longer has the weights' in n for n in notes)


@pytest.mark.slow
def test_figures_with_photographs(tmp_path):
    from idgi_repro.study.shard import Shard, run
    run(Shard('mini_mobilenet', 'embedded:20', steps=(4,), stop=2, images=2, stability=False, references=0), tmp_path)
    found, notes = F.photo_figures(*read(tmp_path))
    assert [*found] == ['maps', 'classes', 'paths'] and not notes
    for p in found.values(): check(p.figure)
    assert len([ax for ax in found['classes'].figure.axes if ax.images]) == 2*2*7
