"The report on results whose truth is known, and every way in which results or the output folder can be wrong."
import json, re
from itertools import product

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest

from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report import page as R
from idgi_repro.report.results import read
from idgi_repro.report.tables import all_tables
from simulate import simulate

GAIN = dict(ig=.05, gig=-.03, blurig=0.)  # of IDGI on the insertion score
PROTOCOL = -.02                           # of the published protocol
SIX = tuple(m.name for m in PAPER.methods)


def report(results, out, **kw): return R.report(results, out, PAPER, **kw)


def shard(file, network='mini_resnet', protocol='corrected', images=30, steps=(8, 16), methods=SIX, data='embedded:100', name='image-{}',
          skipped=(), failed=(), shift=0.):
    "Writes a shard with known effects, as `study.shard.run` does."
    rng, rows = np.random.default_rng([7, *network.encode()]), []
    own = rng.uniform(.3, .7, images)
    for i, m, n in product(range(images), methods, steps):
        score = own[i] + m.endswith('+idgi')*GAIN[m.split('+')[0]] + (protocol == 'published')*PROTOCOL + rng.normal(0, .02) + shift
        rows.append(dict(network=network, data=data, name=name.format(i), label=0, target=0, prob=.9, confident=True, method=m, steps=n,
                         protocol=protocol, insertion=score, insertion_ratio=score/.9, delta=0.))
    manifest = dict(shard=dict(paper=PAPER.name, network=network, data=data, methods=methods, steps=steps, protocol=protocol, start=0,
                               stop=images, images=images, seed=0),
                    version='0.1.0', torch='2.11', device='cpu', seconds=60., weights='w', skipped=skipped, failed=failed)
    file.parent.mkdir(parents=True, exist_ok=True)
    t = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
    pq.write_table(t.replace_schema_metadata({b'idgi_repro': json.dumps(manifest).encode()}), file)
    return file


@pytest.fixture
def results(tmp_path):
    "Two networks on both protocols; the second lacks Guided IG and the larger number of steps on the published one."
    folder = tmp_path/'results'
    for protocol in ('corrected', 'published'):
        shard(folder/f'a-{protocol}.parquet', protocol=protocol)
        shard(folder/'deeper'/f'b-{protocol}.parquet', 'mini_vgg', protocol, methods=(*SIX[:2], *SIX[4:]),
              steps=(8, 16) if protocol == 'corrected' else (8,))
    return folder


def test_several_data_sets_are_kept_apart(results, tmp_path):
    shard(results/'other.parquet', data='/some/where/photos', shift=.2)
    report(results, tmp_path/'out', maps_of=None)
    text = (tmp_path/'out'/'insertion-corrected.md').read_text()
    assert 'mini_resnet on photos' in text and 'mini_resnet on embedded:100' in text


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    "Results whose every name is an attack, and their report."
    evil = '<script>alert("x")</script>'
    folder = tmp_path_factory.mktemp('hostile')
    shard(folder/'r'/'a.parquet', network=evil, data=f'/tmp/{evil} & $x$', images=4, skipped=[[f'{evil}.jpg', f'bad | {evil}']],
          failed=[["it's.jpg", 'NaN']])
    report(folder/'r', folder/'out')
    return folder/'out'


def test_names_are_escaped(hostile):
    html = (hostile/'index.html').read_text('utf-8')
    assert html.count('<script') == 1 and '&lt;script&gt;' in html and 'it&#x27;s.jpg' in html
    assert '2 images could not be used' in html
    for f in hostile.glob('*.md'): assert '<script' not in f.read_text('utf-8')
    for f in hostile.glob('*.svg'): assert '<script' not in f.read_text('utf-8')


def test_the_page_is_complete_in_itself(hostile):
    html = (hostile/'index.html').read_text('utf-8')
    page, _ = html.split('<script')
    loaded, links = (re.findall(rf'(?:{kind})\s*=\s*["\']?([^"\'>\s]*)', page) for kind in ('src|action|data|srcset', 'href'))
    assert all(t.startswith('data:image/webp;base64,') for t in loaded) and len(loaded) == len([*hostile.glob('*.png')])
    for t in links: assert f'id="{t[1:]}"' in page if t[0] == '#' else (hostile/t).exists(), t
    assert not re.search(r'url\(|@import|<link', html) and "default-src 'none'" in page


def test_the_page_says_what_was_run(results, tmp_path):
    shard(results/'c.parquet', 'mini_mobilenet', skipped=[['broken.jpg', 'cannot be read']])
    rows, manifests = read(results)
    html = R.page(rows, manifests, PAPER, all_tables(rows, PAPER), notes=['A note.'])
    for text in ("embedded set: synthetic shapes over scikit-image&#39;s photographs, not ImageNet", 'broken.jpg', 'cannot be read',
                 '1 image could not be used', 'A note.', 'not run', '2.11', 'mini_mobilenet'):
        assert text in html


def test_the_same_results_give_the_same_files(results, tmp_path):
    first, second = (report(results, tmp_path/n, maps_of=None) for n in ('one', 'two'))
    assert [f.name for f in first] == [f.name for f in second]
    assert {f.suffix for f in first} == {'.md', '.csv', '.tex', '.png', '.svg', '.json', '.html'}
    for a, b in zip(first, second): assert a.read_bytes() == b.read_bytes(), a.name
    assert not [*(tmp_path/'one').glob('.*')]
    assert report(results, tmp_path/'one', maps_of=None) == first


@pytest.mark.parametrize('kw', [dict(protocol='published'), dict(steps=(16,)), dict(methods=SIX[4:]),
                                dict(images=1, steps=(4,), methods=SIX[2:4])])
def test_little_is_enough(tmp_path, kw):
    shard(tmp_path/'r'/'a.parquet', **kw)
    files = report(tmp_path/'r', tmp_path/'out', maps_of=None)
    protocol = kw.get('protocol', 'corrected')
    several = [] if len(kw.get('steps', (4, 8))) == 1 else ['curves-insertion', 'curves-insertion_ratio', 'curves-delta']
    drawn = {'construction', 'protocols', *(f'{n}-{protocol}' for n in ('six', 'gains', 'gains-more', *several))}
    assert {f.stem for f in files if f.suffix == '.png'} == {f.stem for f in files if f.suffix == '.svg'} == drawn
    html = (tmp_path/'out'/'index.html').read_text('utf-8')
    assert 'No figure of SIC, entropy; AIC, entropy' in html and 'Figures 1, 3 and 5, which show photographs, are left out' in html
    assert f'Only the {protocol} protocol was run' in html
    assert not plt.get_fignums()


def test_an_output_that_cannot_be_written(results, tmp_path):
    (tmp_path/'file').write_text('in the way')
    for out in (tmp_path/'file', tmp_path/'file'/'below'):
        with pytest.raises(InputError, match='cannot write'): report(results, out)
    assert (tmp_path/'file').read_text() == 'in the way'


def test_maps_that_cannot_be_drawn_are_a_note(results, tmp_path):
    files = report(results, tmp_path/'out')
    html = (tmp_path/'out'/'index.html').read_text('utf-8')
    assert not {'maps.png', 'classes.png', 'paths.png'} & {f.name for f in files}
    assert 'Maps of mini_resnet are not drawn' in html and 'Two classes of mini_resnet are not drawn' in html


def test_the_claims_come_before_the_figures(results, tmp_path):
    report(results, tmp_path/'out', maps_of=None)
    html = (tmp_path/'out'/'index.html').read_text('utf-8')
    order = [html.index(t) for t in ('6 methods with 8 to 16 steps', '<h2>Claims', '<h2>Gains', '<h2>All statistics',
                                     'id="figure-construction"', 'id="figure-six-corrected"', '<h2>More figures', '<h2>Tables',
                                     '<h2>What was run, in detail')]
    assert order == sorted(order) and html.count('id="figure-gains-corrected"') == 1


def test_made_up_results_say_so_before_anything_else(tmp_path, capsys):
    simulate(tmp_path/'r', images=6, steps=(8,), methods=SIX[:2])
    files = report(tmp_path/'r', tmp_path/'out', maps_of=None)
    html, said = next(f for f in files if f.name
                      == 'index.html').read_text('utf-8'), 'These results are made up: no network computed those of made_up_a, made_up_b'
    assert html.count(said) == 2 and html.index(said) < html.index('6 images each') and f'<p class="loud">{said}' in html
    assert said in capsys.readouterr().err


def test_files_that_were_renamed_say_so(results):
    rows, manifests = read(results)
    manifests[0]['migrated'] = 'columns renamed'
    assert R.renamed(manifests) == ['1 of 4 files were migrated (columns renamed).']


@pytest.mark.slow
def test_a_real_study_from_shards_to_maps(tmp_path):
    from idgi_repro.study.shard import Shard, run
    what = dict(data='embedded:20', metrics=('insertion',), steps=(4,), stop=2, images=2, out=str(tmp_path/'r'))
    for network in ('mini_mobilenet', 'mini_resnet'): run(Shard(network=network, **what), PAPER)
    files = report(tmp_path/'r', tmp_path/'out')
    assert {f'{n}.{f}' for n in ('maps', 'classes', 'paths') for f in ('png', 'svg')} <= {f.name for f in files}
    assert 'are not drawn' not in (tmp_path/'out'/'index.html').read_text('utf-8')
    with_note = report(tmp_path/'r', tmp_path/'out2', maps_of=99)
    assert 'maps.png' not in {f.name for f in with_note} and 'maps_of is 99' in (tmp_path/'out2'/'index.html').read_text('utf-8')
