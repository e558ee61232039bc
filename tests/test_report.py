"The report on results whose truth is known, and every way in which results or the output folder can be wrong."
import json, re
from itertools import product

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest

from idgi_repro.errors import InputError
from idgi_repro.report.page import page, report
from idgi_repro.report.claims import all_tables
from idgi_repro.report.results import read

GAIN = dict(ig=.05, gig=-.03, blurig=0.)  # of IDGI on the insertion score
GRID = -.02                               # of the study grid


def shard(file, network='mini_resnet', grid='closed', images=30, steps=(8, 16), methods=('ig', 'gig', 'blurig'), data='embedded:100', name='image-{}', skipped=(), failed=(), shift=0.):
    "Writes a shard with known effects, as `study.run` does."
    rng, rows = np.random.default_rng([7, *network.encode()]), []
    own = rng.uniform(.3, .7, images)
    for i, m, r, n in product(range(images), methods, ('riemann', 'idgi'), steps):
        score = own[i] + (r == 'idgi')*GAIN[m] + (grid == 'study')*GRID + rng.normal(0, .02) + shift
        rows.append(dict(network=network, data=data, name=name.format(i), label=0, target=0, prob=.9, confident=True, method=m, rule=r, steps=n, grid=grid, insertion=score, insertion_ratio=score/.9, delta=0.))
    manifest = dict(shard=dict(network=network, data=data, methods=methods, steps=steps, grid=grid, start=0, stop=images, images=images, seed=0),
                    version='0.1.0', torch='2.11', device='cpu', seconds=60., weights='w', skipped=skipped, failed=failed)
    file.parent.mkdir(parents=True, exist_ok=True)
    t = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
    pq.write_table(t.replace_schema_metadata({b'idgi_repro': json.dumps(manifest).encode()}), file)
    return file


@pytest.fixture
def results(tmp_path):
    "Two networks on both grids; the second lacks Guided IG and the larger number of steps on the study grid."
    folder = tmp_path/'results'
    for grid in ('closed', 'study'):
        shard(folder/f'a-{grid}.parquet', grid=grid)
        shard(folder/'deeper'/f'b-{grid}.parquet', 'mini_vgg', grid, methods=('ig', 'blurig'), steps=(8, 16) if grid == 'closed' else (8,))
    return folder


def test_several_data_sets_are_kept_apart(results, tmp_path):
    shard(results/'other.parquet', data='/some/where/photos', shift=.2)
    report(results, tmp_path/'out', maps_of=None)
    text = (tmp_path/'out'/'insertion-closed.md').read_text()
    assert 'mini_resnet on photos' in text and 'mini_resnet on embedded:100' in text


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    "Results whose every name is an attack, and their report."
    evil = '<script>alert("x")</script>'
    folder = tmp_path_factory.mktemp('hostile')
    shard(folder/'r'/'a.parquet', network=evil, data=f'/tmp/{evil} & $x$', images=4, skipped=[[f'{evil}.jpg', f'bad | {evil}']], failed=[["it's.jpg", 'NaN']])
    report(folder/'r', folder/'out')
    return folder/'out'


def test_names_are_escaped(hostile):
    html = (hostile/'index.html').read_text('utf-8')
    assert '<script' not in html and '&lt;script&gt;' in html and 'it&#x27;s.jpg' in html
    assert '2 images could not be used' in html
    for f in hostile.glob('*.md'): assert '<script' not in f.read_text('utf-8')
    for f in hostile.glob('*.svg'): assert '<script' not in f.read_text('utf-8')


def test_the_page_is_complete_in_itself(hostile):
    html = (hostile/'index.html').read_text('utf-8')
    targets = re.findall(r'(?:src|href|action|data|srcset)\s*=\s*["\']?([^"\'>\s]*)', html) + re.findall(r'url\(([^)]*)', html)
    assert targets and all(t.startswith(('data:image/png;base64,', '#part')) for t in targets)
    for t in targets: assert t[0] != '#' or f'id="{t[1:]}"' in html
    assert '@import' not in html and '<link' not in html and len(re.findall('<img', html)) == len([*hostile.glob('*.png')])


def test_the_page_says_what_was_run(results, tmp_path):
    shard(results/'c.parquet', 'mini_mobilenet', skipped=[['broken.jpg', 'cannot be read']])
    rows, manifests = read(results)
    html = page(rows, manifests, all_tables(rows), {}, ['A note.'])
    for text in ("embedded set: synthetic shapes over scikit-image&#x27;s photographs, not ImageNet", 'broken.jpg', 'cannot be read', '1 image could not be used', 'A note.', 'not run', '2.11', 'mini_mobilenet'): assert text in html


def test_the_same_results_give_the_same_files(results, tmp_path):
    first, second = (report(results, tmp_path/n, maps_of=None) for n in ('one', 'two'))
    assert [f.name for f in first] == [f.name for f in second]
    assert {f.suffix for f in first} == {'.md', '.csv', '.tex', '.png', '.svg', '.json', '.html'}
    for a, b in zip(first, second): assert a.read_bytes() == b.read_bytes(), a.name
    assert not [*(tmp_path/'one').glob('.*')]
    assert report(results, tmp_path/'one', maps_of=None) == first


@pytest.mark.parametrize('kw', [dict(grid='study'), dict(steps=(16,)), dict(methods=('blurig',)), dict(images=1, steps=(4,), methods=('gig',))])
def test_little_is_enough(tmp_path, kw):
    shard(tmp_path/'r'/'a.parquet', **kw)
    files = report(tmp_path/'r', tmp_path/'out', maps_of=None)
    grid = kw.get('grid', 'closed')
    drawn = {'construction', 'grids', *(f'{n}-{grid}' for n in ('six', 'curves-insertion', 'curves-insertion_ratio', 'curves-delta', 'gains', 'gains-more'))}
    assert {f.stem for f in files if f.suffix == '.png'} == {f.stem for f in files if f.suffix == '.svg'} == drawn
    html = (tmp_path/'out'/'index.html').read_text('utf-8')
    assert 'No figure of SIC, entropy; AIC, entropy' in html and 'Figures 1, 3 and 5, which show photographs, are left out' in html and f'Only the {grid} grid was run' in html
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
    order = [html.index(t) for t in ('The claims of the paper', '>What was run</h2>', 'the paper&#x27;s Figure 2', 'the paper&#x27;s Figure 4', '>More figures</h2>', '>Tables</h2>')]
    assert order == sorted(order) and html.count('The claims of the paper') == 1


@pytest.mark.slow
def test_a_real_study_from_shards_to_maps(tmp_path):
    from idgi_repro.study.shard import Shard, run
    for network in ('mini_mobilenet', 'mini_resnet'): run(Shard(network, 'embedded:20', steps=(4,), stop=2, images=2, stability=False, references=0), tmp_path/'r')
    files = report(tmp_path/'r', tmp_path/'out')
    assert {f'{n}.{f}' for n in ('maps', 'classes', 'paths') for f in ('png', 'svg')} <= {f.name for f in files} and 'are not drawn' not in (tmp_path/'out'/'index.html').read_text('utf-8')
    with_note = report(tmp_path/'r', tmp_path/'out2', maps_of=99)
    assert 'maps.png' not in {f.name for f in with_note} and 'maps_of is 99' in (tmp_path/'out2'/'index.html').read_text('utf-8')
