"Tables and claims of results whose truth is known, and every way in which results can be incomplete or wrong."
import io, json, re, shutil, subprocess
from dataclasses import replace
from itertools import product

import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest
from scipy.stats import t as student

from idgi_repro.papers.idgi import BLUR, CLAIMS, LOWERS, PAPER, PATCHY, RAISES, RESIDUAL, SENSITIVE, SIX as SCORES, WEIGHTS
from idgi_repro.records import Claim
from idgi_repro.report import claims as C, tables as T
from idgi_repro.report.claims import Sample, moved, shares, sizes, verdict
from idgi_repro.report.formats import Table
from idgi_repro.report.looks import last_look, level, needed, take_look, told_look
from idgi_repro.report.results import read, result_files
from idgi_repro.report.statistics import NO_MASKS, NOT_RUN, draws, mean, tails, values
from idgi_repro.study.models import IMAGENET
from idgi_repro.study.parameters import Study
from idgi_repro.study.workflow import choice_file
from simulate import EFFECTS, simulate

METRICS, METHODS = {m.name: m for m in PAPER.metrics}, ('ig', 'gig', 'blurig')
PAPERS = (*SCORES, 'stability') # of which the paper has a table of networks by methods


def of(function):
    "The function for the paper whose results are made up."
    return lambda rows, *args, **kw: function(rows, PAPER, *args, **kw)

all_tables, by_steps, exclusions, gains, network_names, protocols, table = map(of,
    (T.all_tables, T.by_steps, T.exclusions, T.gains, T.network_names, T.protocols, T.table))
claims = of(C.claims)


def made(folder, **kw):
    "Rows of made-up results: one network, the corrected protocol, two step counts, unless told otherwise."
    simulate(folder, **dict(networks=('mini_resnet',), protocols=('corrected',), steps=(8, 16), data='embedded:100') | kw)
    return read(folder)[0]


@pytest.fixture
def results(tmp_path):
    "Two networks on both protocols; the second lacks Guided IG and the larger number of steps on the published one."
    folder = tmp_path/'results'
    simulate(folder, networks=('mini_resnet',), images=30, steps=(8, 16), data='embedded:100')
    for protocol, steps in (('corrected', (8, 16)), ('published', (8,))):
        simulate(folder/'deeper', networks=('mini_vgg',), protocols=(protocol,), images=30, steps=steps, data='embedded:100',
                 methods=('ig', 'ig+idgi', 'blurig', 'blurig+idgi'))
    return folder


def verdicts(rows, claim, protocol='corrected'):
    "Of all lines of a claim on one protocol, in order."
    f = claims(rows).frame
    return f[(f.claim == claim) & f.protocol.str.startswith((protocol, 'any'))].verdict.tolist()


# reading

def test_shards_with_and_without_a_column_are_read_together(tmp_path):
    made(tmp_path, without=[c for c in EFFECTS if c in METRICS and c != 'insertion'] + [f'{c}_curve' for c in SCORES[2:]]
         + ['excluded', 'concentration'])
    rows = made(tmp_path, networks=('mini_vgg',))
    for metric in METRICS:
        ran = table(rows, metric).frame.set_index('network').images
        assert ran['mini_vgg'] in ('40', '36', '32')
        assert ran['mini_resnet'] == ('40' if metric in ('insertion', 'near_zero', 'pointing', 'delta', 'reference') else NOT_RUN)


# statistics and intervals

def test_metrics_report_what_they_say(tmp_path):
    rows = made(tmp_path)
    here = rows[(rows.steps == 16) & (rows.method == 'ig')]
    reported = lambda metric: table(rows, metric).frame['IG'][0]
    assert reported('insertion') == pytest.approx(here.insertion.mean())
    assert reported('aic_entropy') == pytest.approx(here.aic_entropy.mean())
    # the area under the mean curve
    assert reported('aic_entropy') == pytest.approx(np.trapezoid(np.stack(here.aic_entropy_curve.dropna()).mean(0), dx=.01), abs=1e-6)
    assert reported('sic_entropy') == pytest.approx(np.trapezoid(np.median(np.stack(here.sic_entropy_curve.dropna()), 0), dx=.01))
    assert reported('delta') == pytest.approx(here.delta.abs().mean())
    assert reported('near_zero') == f'{here.near_zero.sum():.0f} of 40'


def test_numbers_that_are_not_finite_do_not_count(tmp_path):
    rows = made(tmp_path)
    rows.loc[rows['name'] == 'image-003', 'stability'] = np.inf
    assert table(rows, 'stability').frame.images[0] == '39' and np.isfinite(values(rows, 'stability')).sum() == len(rows)*39//40


# comparisons

def test_known_effects_come_out(results):
    rows, _ = read(results)
    for protocol in ('corrected', 'published'):
        f = gains(rows, 8, protocol).frame.set_index(['network', 'method', 'metric'])
        for network, metric in product(('mini_resnet', 'mini_vgg'), ('insertion', 'aic_entropy', 'sic_msssim')):
            # from 16 steps, at which IDGI adds all of its gain
            doublings = -1 if network == 'mini_resnet' or protocol == 'corrected' else 0
            assert f.difference[network, 'IG+IDGI', METRICS[metric].title] == pytest.approx(.05 + .02*doublings,
                abs=.05 if 'sic' in metric else .015)
            if metric == 'insertion': assert f.low[network, 'IG+IDGI', METRICS[metric].title] > 0
        assert f.high['mini_resnet', 'GIG+IDGI', 'Insertion score'] < 0 and f.images['mini_vgg', 'GIG+IDGI', 'Insertion score'] == NOT_RUN
    g = protocols(rows, 8).frame
    g = g[(g.metric == 'Insertion score') & (g.images == '30')]
    assert len(g) == 6 + 4 and g[g.method != 'IG+IDGI'].difference.mean() == pytest.approx(-.02, abs=.008)


def test_no_effect_is_found_about_as_seldom_as_it_should_be(tmp_path):
    none = {c: dict.fromkeys(METHODS, 0.) for c in EFFECTS}
    found = []
    for seed in range(6):
        f = gains(made(tmp_path/str(seed), seed=seed, effects=none, steps=(8,))).frame
        f = f[f.metric.isin([METRICS[c].title for c in (*PAPERS, 'stability_l1', 'patchiness', 'energy_inside')])]
        found += [(f.low.astype(float) > 0) | (f.high.astype(float) < 0)]
    assert len(np.concatenate(found)) == 6*3*10 and np.mean(np.concatenate(found)) < .11


def test_one_image_has_no_interval_and_decides_nothing(tmp_path):
    rows = made(tmp_path, images=1)
    f = gains(rows).frame
    assert set(f.low[f.images == '1']) == set(f.high[f.images == '1']) == {'undefined'} and set(f.images) == {'1', NOT_RUN}
    c = claims(rows).frame
    assert set(c.verdict) == {'undecided', NOT_RUN} and set(c.low[c.verdict == 'undecided']) == {'undefined'}


# what was not run

def test_cells_that_were_not_run_say_so(results):
    rows, _ = read(results)
    head, body = table(rows, 'insertion').cells()
    vgg = dict(zip(head, body[1]))
    assert vgg['GIG'] == vgg['GIG+IDGI'] == NOT_RUN and float(vgg['IG']) > 0
    assert set(table(rows, 'insertion', protocol='published').cells()[1][1][1:]) == {NOT_RUN}
    assert {r[3] for r in by_steps(rows, 'mini_vgg', 'published').cells()[1]} == {NOT_RUN}
    for t in all_tables(rows).values():
        for text in (t.markdown(), t.csv(), t.latex(), t.html()):
            assert not re.search(r'\bnan\b|none\b(?!">)|,,|\|\s*\|\s*\||& *&|<td></td>', text, re.I)


def test_columns_that_are_absent_or_empty_are_not_run(tmp_path):
    rows = made(tmp_path)
    gone = [*{*rows} & {*METRICS, *(m.column for m in METRICS.values()), 'concentration', 'excluded'}]
    for poor in (rows.drop(columns=gone), rows.assign(**{c: np.nan for c in gone}), rows.assign(**{c: None for c in gone})):
        tables = all_tables(poor)
        assert tables.keys() == all_tables(rows).keys() and {f'{c}-corrected' for c in PAPERS} <= tables.keys()
        for name, t in tables.items():
            numbers = t.frame.drop(columns=[c for c in ('network', 'metric', 'method', 'claim', 'statistic', 'holds if', 'protocol')
                                            if c in t.frame])
            assert {c for r in Table('', '', numbers).cells()[1] for c in r} == {NOT_RUN}, name


def test_one_of_the_papers_networks_brings_all_ten(tmp_path):
    rows = made(tmp_path, networks=('mini_resnet', 'vgg16', 'resnet50@IMAGENET1K_V1'), images=6)
    assert {*network_names(rows)} == {*IMAGENET, 'mini_resnet', 'resnet50@IMAGENET1K_V1'}
    tables = all_tables(rows)
    assert sum(n.startswith('steps-') for n in tables) == 12 and sum(f'{c}-corrected' in tables for c in PAPERS) == 7
    cells = {r[0]: r[1:] for r in tables['insertion-corrected'].cells()[1]}
    assert {*cells['vgg19']} == {NOT_RUN} == {*cells['resnet50']} and NOT_RUN not in cells['vgg16'] + cells['resnet50@IMAGENET1K_V1']


def test_exclusions_are_counted(tmp_path):
    rows = made(tmp_path, networks=('mini_resnet', 'mini_vgg'), protocols=('corrected', 'published'), images=20)
    rows.loc[(rows.network == 'mini_vgg') & (rows['name'] == 'image-001'), 'excluded'] = 'a new reason'
    t = exclusions(rows)
    assert t.frame.set_index('network').T.to_dict() == {n: {'images': 20, 'kept': 16 - k, 'not confident': 2, 'SIC: last value': 0,
                                                            'SIC: no rise': 0, 'AIC: last value': 0, 'AIC: no rise': 0, 'entropy: bytes': 2,
                                                            'a new reason': k} for n, k in dict(mini_resnet=0, mini_vgg=1).items()}
    head, body = exclusions(rows[rows.network == 'mini_vgg'].assign(network='vgg16')).cells()
    assert len(body) == 10 and all({*r[1:]} == {NOT_RUN} for r in body if r[0] != 'vgg16')
    assert body[8] == ['vgg16', '20', '15', '2', '0', '0', '0', '0', '2', '1']


# claims

def test_claims_follow_the_effects(tmp_path):
    up, down, none = 'supported', 'contradicted', 'undecided'
    # one interval in twenty misses: some seeds find something where there is nothing
    rows = made(tmp_path, steps=(8, 16, 32), images=80)
    assert verdicts(rows, LOWERS)[:4] == [up, down, none, up]
    assert verdicts(rows, PATCHY)[:3] == [up, down, none] and verdicts(rows, BLUR) == [up]
    assert verdicts(rows, SENSITIVE)[:3] == verdicts(rows, SENSITIVE)[4:7] == [up, down, none]
    assert verdicts(rows, RESIDUAL) == [NOT_RUN]*2 and verdicts(rows, WEIGHTS) == [NOT_RUN]
    assert {*verdicts(rows, RAISES, 'published')} == {NOT_RUN}
    turned = {c: {m: -v for m, v in e.items()} for c, e in EFFECTS.items()}
    rows = made(tmp_path/'turned', seed=3, effects=turned)
    assert verdicts(rows, LOWERS)[:3] == [down, up, none] and verdicts(rows, PATCHY)[:3] == [down, up, none]


@pytest.mark.parametrize('size, expected', [(.1, 'supported'), (-.1, 'contradicted')])
def test_gains_everywhere_and_nowhere(tmp_path, size, expected):
    rows = made(tmp_path, networks=('mini_resnet', 'mini_vgg'), images=80, effects={c: dict.fromkeys(METHODS, size) for c in SCORES})
    most, not_all, *each = verdicts(rows, RAISES)
    assert [most, *each] == [expected]*7 and not_all != expected
    f = claims(rows).frame.query('protocol.str.startswith("corrected")')
    assert f.estimate.iloc[0] == (size > 0) and set(f.iloc[1][['estimate', 'low', 'high']]) == {f'{36*(size < 0)} of 36'}
    assert f['holds if'].iloc[1] == 'at least 1'


def test_most_and_not_all_are_two_claims(tmp_path):
    "Two methods gain, one loses; and one that loses by nothing that can be seen."
    for loss, expected in ((-.1, 'supported'), (-.001, 'undecided')):
        rows = made(tmp_path/str(loss), effects={c: dict(ig=.1, gig=.1, blurig=loss) for c in SCORES})
        assert verdicts(rows, RAISES)[:2] == ['supported', expected]


def test_a_claim_stands_on_its_smallest_cell(tmp_path):
    rows = made(tmp_path, networks=('mini_resnet', 'mini_vgg'), effects={c: dict.fromkeys(METHODS, .2) for c in SCORES})
    few = rows[(rows.network == 'mini_resnet') | rows['name'].isin(['image-001', 'image-002', 'image-003', 'image-004'])]
    for r, images, expected in ((rows, '32', 'supported'), (few, '4', 'undecided')):
        first = claims(r).frame.iloc[0]
        assert (first.images, first.verdict) == (images, expected)


def test_the_noisier_method_is_not_the_more_sensitive_one():
    """No steps matter, and IDGI scatters three times as much: found no more often than one interval in forty says. With a true difference
    it is found."""
    def verdicts_of(combine, effect, seed):
        rng, images = np.random.default_rng(seed), 30
        each = [['n'], ['d'], range(images), [0], [m.name for m in PAPER.methods], [8, 128], ['corrected']]
        rows = pd.MultiIndex.from_product(each, names=['network', 'data', 'name', 'target', 'method', 'steps',
                                                       'protocol']).to_frame(index=False)
        idgi = rows.method.str.endswith('+idgi')
        for c in ('insertion', 'aic_entropy'):
            rows[c] = .5 + rng.normal(0, .03, len(rows))*np.where(idgi, 3, 1) + effect*(idgi & (rows.steps == 8))
        s = Sample(rows, PAPER)
        v = combine({(c, m): moved(s, c, 'n', m.name)[0] for c in ('insertion', 'aic_entropy') for m in PAPER.compared()})
        low, high = np.quantile(v[1:], [.025, .975])
        return low > 0, high < 0
    for combine in (sizes, shares):
        none, true = ([verdicts_of(combine, effect, seed) for seed in range(60)] for effect in (0, .1))
        assert np.sum(none, 0).max() <= 4 and np.mean(true, 0)[0] > .9


def test_no_effect_decides_little(tmp_path):
    found = []
    for seed in range(4):
        rows = made(tmp_path/str(seed), seed=seed, effects={c: dict.fromkeys(METHODS, 0.) for c in EFFECTS})
        here = claims(rows).frame.query('protocol.str.startswith("corrected") and not claim.str.startswith("BlurIG")')
        found += here.verdict.tolist()
    assert len(found) == 4*39 and np.mean([v in ('supported', 'contradicted') for v in found]) < .12


def test_the_residual_networks_are_set_against_the_others(tmp_path):
    less = {c: dict.fromkeys(METHODS, -.05) for c in SCORES}
    rows = made(tmp_path, networks=('vgg16', 'inception_v3'), effects={c: dict.fromkeys(METHODS, .05) for c in SCORES})
    assert verdicts(rows, RESIDUAL) == [NOT_RUN]*2
    rows = made(tmp_path, networks=('resnet50', 'realdata:resnet101'), effects=less)
    assert verdicts(rows, RESIDUAL) == ['supported']*2
    own, difference = claims(rows).frame.query('protocol.str.startswith("corrected")').set_index('claim').loc[RESIDUAL].estimate
    assert own == pytest.approx(-.05, abs=.02) and difference == pytest.approx(-.1, abs=.02)
    assert verdicts(rows[~rows.network.str.contains('resnet')].copy(), RESIDUAL) == [NOT_RUN]*2
    # the images of vgg16, which gains .05
    better = rows.assign(network=rows.network.replace('vgg16', 'resnet50@IMAGENET1K_V1'))
    assert verdicts(better, WEIGHTS) == ['supported'] and verdicts(rows, WEIGHTS) == [NOT_RUN]
    assert claims(better).frame.set_index('claim').loc[WEIGHTS].iloc[0].estimate == pytest.approx(.1, abs=.02)
    same = pd.concat([rows[~rows.network.str.contains('resnet')], rows[rows.network == 'vgg16'].assign(network='resnet50')])
    pair = same[same.network.isin(['vgg16', 'resnet50'])]
    # the same images are drawn in both
    assert claims(pair).frame.set_index('claim').loc[RESIDUAL].iloc[2][['estimate', 'low', 'high']].tolist() == [0, 0, 0]


def test_one_step_count_says_nothing_on_sensitivity(tmp_path):
    rows = made(tmp_path, steps=(8,))
    assert {*verdicts(rows, SENSITIVE)} == {NOT_RUN} and verdicts(rows, LOWERS)[0] == 'supported'


def test_few_images_decide_nothing(tmp_path):
    rows = made(tmp_path/'four', images=4)
    assert {*claims(rows).frame.verdict} == {'undecided', NOT_RUN}
    assert 'supported' in {*claims(made(tmp_path/'five', images=5)).frame.verdict}


def test_every_claim_has_a_line_for_each_protocol(results):
    f = claims(read(results)[0]).frame
    assert len(f) == 2*len(CLAIMS) - 1 and {*f.claim} == {RAISES, RESIDUAL, WEIGHTS, SENSITIVE, LOWERS, BLUR, PATCHY}
    assert f[f.claim == BLUR].protocol.tolist() == ['any protocol']
    assert list(f.columns) == ['claim', 'statistic', 'holds if', 'protocol', 'estimate', 'low', 'high', 'images', 'verdict']
    assert {*f.protocol} - {'any protocol'} == {'corrected protocol, 16 steps', 'published protocol, 16 steps',
                                                'corrected protocol, 8 to 16 steps', 'published protocol, 8 to 16 steps'}


def test_verdicts():
    over, under = (Claim('', '', None, (), (), limit=.5, above=above) for above in (True, False))
    for low, high, images, expected in [(.6, .7, 9, 'supported'), (.1, .4, 9, 'contradicted'), (.4, .6, 9, 'undecided'),
                                        (.5, .6, 9, 'undecided'), (.6, .7, 4, 'undecided'), (np.nan, np.nan, 9, 'undecided')]:
        assert verdict(over, low, high, images) == expected
        assert verdict(under, low, high, images) == dict(supported='contradicted', contradicted='supported').get(expected, expected)


# formats

EVIL = ['<script>alert("x")</script>', 'a|b & c', r'50% of $x^2$ {in} \section_#~', '[width]', '*', '-1', 'new\nline', r'\\', '']


def unescaped(tex):
    "A LaTeX text as it prints. Fails at every character that would be markup."
    known = {f'\\text{n}{{}}': c for n, c in dict(asciitilde='~', asciicircum='^', backslash='\\', less='<', greater='>',
                                                  bar='|').items()} | {f'\\{c}': c for c in '_%&#${}'} | {'{[}': '[', '{*}': '*',
        '$-$': '-', f'\\textit{{{NOT_RUN}}}': NOT_RUN}
    token = re.compile('|'.join(map(re.escape, sorted(known, key=len, reverse=True))) + r'|[^\\_%&#${}~^<>|\[*\n]')
    out = token.findall(tex)
    assert ''.join(out) == tex, tex
    return ''.join(known.get(t, t) for t in out)


@pytest.mark.parametrize('rows', [1, 60])
def test_latex_says_what_the_table_says(rows):
    names = (EVIL*9)[:max(rows, len(EVIL))]
    t = Table('50 % of {all} & more', EVIL[2], pd.DataFrame({'network_1': names, 'IG': np.linspace(-1, 1, len(names)), 'GIG': np.nan,
                                                             'images': '30 to 40', '& more': 'text'}), '+')
    tex = t.latex('my table')
    (columns,) = re.findall(r'\\begin\{(?:tabular|longtable)\}\{((?:\w|\{8em\})+)\}', tex)
    assert columns == 'p{8em}rrrl' and ('longtable' in tex) == (len(names) > 40) and '\\label{tab:my-table}' in tex
    (caption,) = re.findall(r'\\caption\{(.*)\}\\label', tex)
    assert unescaped(caption) == f'{t.title}. {t.caption}'
    _, *heads, body = re.split(r'\\toprule\n|\\midrule\n(?:\\end\w*head\n)?', tex.split('\\bottomrule')[0])
    heads = [h for h in heads if h]
    # a page that goes on has the head, but neither caption nor label
    assert len(heads) == 1 + ('longtable' in tex) and len({*heads}) == 1 and tex.count('\\caption') == tex.count('\\label') == 1
    assert 'longtable' not in tex or tex.index('\\label') < tex.index('\\endfirsthead') < tex.index('\\endhead')
    lines = [[unescaped(c) for c in re.split(r'(?<!\\)&', l)] for l in (heads[0] + body).split(' \\\\\n')[:-1]]
    assert [[c.strip() for c in l] for l in lines] == [[' '.join(c.split()) for c in l] for l in [t.cells()[0], *t.cells()[1]]]
    for environment in re.findall(r'\\begin\{(\w+)\}', tex): assert tex.count(f'\\end{{{environment}}}') == 1
    assert tex.count('{') - tex.count('\\{') == tex.count('}') - tex.count('\\}') and '\\footnotesize' in tex


def test_long_texts_break_into_lines():
    tex = Table('t', '', pd.DataFrame({'claim': ['a rather long sentence that no page is wide enough for'], 'value': [1.]})).latex()
    assert '{tabular}{p{8em}r}' in tex


def test_localisation_without_masks_says_so(tmp_path):
    "Whatever was run on images that have no masks; what was not run at all still says that."
    rows = made(tmp_path, networks=('mini_resnet', 'vgg16')).assign(data='/a/folder', energy_inside=np.nan, pointing=np.nan)
    tables = all_tables(rows)
    for metric in ('energy_inside', 'pointing'):
        cells = {r[0]: {*r[1:]} for r in tables[f'{metric}-corrected'].cells()[1]}
        assert cells['mini_resnet'] == cells['vgg16'] == {NO_MASKS} and cells['vgg19'] == {NOT_RUN}
        f = tables['gains-corrected'].frame.query('metric == @METRICS[@metric].title').set_index('network')
        assert {*f.loc['vgg16', ['difference', 'low', 'high', 'images']].to_numpy().ravel()} == {NO_MASKS}
        assert f.loc['vgg19', 'difference'].isna().all()
        assert {c for r in tables['steps-vgg16-corrected'].cells()[1] if r[0] == METRICS[metric].title for c in r[2:]} == {NO_MASKS}


def test_captions_say_which_table_of_the_paper_it_is(tmp_path):
    tables = all_tables(made(tmp_path, networks=('realdata:vgg16', 'mini_resnet')))
    paper = [n for n, t in tables.items() if "One of the paper's seventeen tables" in t.caption]
    assert len(paper) == 17 and {f'{c}-corrected' for c in PAPERS} < {*paper} and 'steps-realdata-vgg16-corrected' in paper
    assert 'steps-vgg16-corrected' not in tables
    counts = [r for r in tables['steps-mini_resnet-corrected'].cells()[1] if r[0] == METRICS['near_zero'].title]
    assert counts and all(re.fullmatch(r'\d+ of 40', c) for r in counts for c in r[2:4])


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='no pdflatex')
def test_latex_compiles(results, tmp_path):
    body = '\n'.join(t.latex(n) for n, t in all_tables(read(results)[0]).items())
    (tmp_path/'t.tex').write_text('\\documentclass{article}\\usepackage{booktabs,longtable}\\begin{document}' + body + '\\end{document}')
    assert subprocess.run(['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 't.tex'], cwd=tmp_path,
                          capture_output=True).returncode == 0


def test_hostile_names_are_data(tmp_path):
    for i, name in enumerate(EVIL[:-1]): simulate(tmp_path/str(i), networks=(name,), protocols=('corrected',), images=2, steps=(4,))
    rows, _ = read(tmp_path)
    tables = all_tables(rows)
    assert sum(n.startswith('steps-') for n in tables) == len(EVIL) - 1 and all(re.fullmatch(r'[A-Za-z0-9@._-]+', n) for n in tables)
    for t in tables.values():
        assert '<script' not in t.markdown() + t.html() and not re.search(r'(?<!\\)[%#]', t.latex())
        columns = {len(re.findall(r'(?<!\\)\|', l)) for l in t.markdown().split('\n')[4:-1]}
        assert len(columns) == 1 and pd.read_csv(io.StringIO(t.csv()), keep_default_na=False).shape == t.frame.shape


def test_the_same_results_give_the_same_tables(results, tmp_path):
    text = lambda folder: {n: t.markdown() + t.csv() + t.latex(n) for n, t in all_tables(read(folder)[0]).items()}
    first = text(results)
    draws.cache_clear()
    for file in results.rglob('*.parquet'):                     # the same rows in other shards
        whole, cut = pq.read_table(file), 77
        for i, part in enumerate((whole[cut:], whole[:cut])): pq.write_table(part, file.with_name(f'{i}-{file.name}'))
        file.unlink()
    assert text(results) == first


# looks

def test_an_interval_of_any_level_is_as_wide_as_students_and_wider_on_the_side_that_skewed_images_miss():
    rng = np.random.default_rng(0)
    for v, skewed in ((rng.normal(size=100), False), (rng.exponential(size=100), True)):
        drawn = mean(v, np.hstack([np.ones((100, 1), np.int16), draws(100, 2000)]))
        low, high = tails(drawn, 100, 1e-4)
        plain = student.isf(.5e-4, 99)*v.std(ddof=1)/10
        assert v.mean() - low > .95*plain and high - v.mean() > (1.2 if skewed else .95)*plain
        assert (high - v.mean() > 1.2*(v.mean() - low)) == skewed


def test_a_study_stops_at_the_look_that_decides_and_its_verdicts_stand(tmp_path):
    "Three looks of one claim that is true and one on nothing; and what is no result of those looks is not reported as one."
    about = lambda m: Claim(m, m, C.gain, ('insertion',), (f'{m}+idgi',), protocols=('corrected',))
    paper = replace(PAPER, claims=(about('ig'), about('blurig')))
    study = Study(networks=('mini_resnet',), images=100, until='decided', protocols=('corrected',), out=str(tmp_path))
    simulate(tmp_path, networks=('mini_resnet',), protocols=('corrected',), images=96, steps=(8,), shards=3)
    ends = dict(zip(sorted(f.name for f in result_files(tmp_path)), (32, 64, 96)))
    choice_file(study, 'mini_resnet').parent.mkdir()
    choice_file(study, 'mini_resnet').write_text(json.dumps(dict(shards={f: dict(stop=n) for f, n in ends.items()})))
    found = [take_look(study, paper, n) for n in (32, 64, 100)]
    assert [told_look(f) for f in found] == [f'{n} images: 1 claims decided, 1 undecided' for n in (32, 64, 100)]
    assert [len(f['files']) for f in found] == [1, 2, 3] and [f['level'] for f in found] == [level(k, 2) for k in (1, 2, 3)]
    frame = last_look(tmp_path, paper).frame
    assert frame['decided at'].tolist() == ['32', '–'] and frame.images.tolist() == ['96', '96'] and 'done' not in frame
    assert all_tables(read(tmp_path)[0])['claims'].frame.shape[1] == 9, 'without a look it is the table of all images'
    next(iter(result_files(tmp_path))).rename(tmp_path/'other.parquet')
    assert last_look(tmp_path, paper) is None is last_look(tmp_path, PAPER)


def test_images_needed_grow_as_the_square_of_a_smaller_effect(tmp_path):
    at = []
    for k, size in enumerate((.02, .005)):
        rows = made(tmp_path/str(k), images=400, effects={c: dict.fromkeys(METHODS, size) for c in SCORES})
        paper = replace(PAPER, claims=(Claim('it helps', 'gain', C.gain, ('insertion',), ('ig+idgi',)),))
        at += needed(rows, Study(images=50_000, until='decided'), paper).images.tolist()[:1]
    assert at[0] == 32 and 8 <= at[1]/at[0] <= 32
