"Files, names and parameters from elsewhere are data: nothing in them is run, and nothing is written outside the folder that was named."
import ast, os, pickle, re, struct, zlib
from dataclasses import asdict, fields, replace
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch, torchvision
from PIL import Image

from idgi_repro import cli
from idgi_repro.cli import main
from idgi_repro.errors import InputError, TYPES, check_kind
from idgi_repro.files import results_folder, slug
from idgi_repro.jobs import check_parameters, execute, notebook
from idgi_repro.papers.idgi import PAPER
from idgi_repro.papers.loading import load_paper
from idgi_repro.report.formats import Table
from idgi_repro.report.page import page, report
from idgi_repro.report.results import read
from idgi_repro.report.style import Drawing
from idgi_repro.report.tables import all_tables
from idgi_repro.study import models, shard as room
from idgi_repro.study.embedded import EMBEDDED
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.images import Embedded, MAX_PIXELS, Photo, UnreadableImage
from idgi_repro.study.models import IMAGENET, load
from idgi_repro.study.selection import select
from idgi_repro.study.shard import Shard, run
from simulate import simulate

EVIL = '<script>alert("x")</script>'
FEW = dict(methods=('ig', 'ig+idgi'), metrics=('insertion', 'delta'), steps=(2,))


class Trap:
    "A pickle that leaves a mark when it is loaded."
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return Path.touch, (self.mark,)


# weights

def test_the_trap_works(tmp_path):
    torch.save(dict(w=Trap(tmp_path/'mark')), tmp_path/'w.pth')
    torch.load(tmp_path/'w.pth', weights_only=False)
    assert (tmp_path/'mark').exists()


@pytest.mark.parametrize('name', IMAGENET)
@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
def test_weights_that_hold_code(name, form, hub, monkeypatch):
    "The code is not run, not even where the environment asks for it, and the environment is as before."
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    before, mark = dict(os.environ), hub.parent/'mark'
    file = hub/Path(torchvision.models.get_model_weights(name)[IMAGENET[name][0]].url).name
    if form == 'pickle': file.write_bytes(pickle.dumps(Trap(mark), protocol=2))
    else: torch.save({'features.weight': Trap(mark)}, file, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(InputError, match='does not hold tensors alone') as e: load(name)
    assert not mark.exists() and str(file) in str(e.value) and 'delete the file' in str(e.value) and 'weights_only' not in str(e.value)
    assert dict(os.environ) == before


def test_own_weights_still_load_under_it(hub):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), hub/'mobilenet_v2-7ebf99e0.pth', _use_new_zipfile_serialization=False)
    assert load('mobilenet_v2').name == 'mobilenet_v2'


@pytest.mark.parametrize('name', EMBEDDED)
def test_the_embedded_weights_are_safetensors(name, tmp_path, monkeypatch):
    "A pickle in their place is refused, not unpickled."
    (tmp_path/f'{name}.safetensors').write_bytes(pickle.dumps(Trap(tmp_path/'mark'), protocol=2))
    monkeypatch.setattr(models, 'WEIGHTS', tmp_path)
    with pytest.raises(InputError, match='install the package again'): load(name)
    assert not (tmp_path/'mark').exists()


def test_nothing_in_the_package_unpickles_or_evaluates():
    """But `literal_eval`, which takes literals alone; and the Python file that a user names as a network is run. PyTorch reads tensors
    alone where it is told `weights_only=True`, NumPy arrays alone where it is not told `allow_pickle`."""
    risky = (r'(?<![.\w])(eval|exec|compile|__import__)\(|\b(torch|pickle|joblib|marshal|yaml)\.loads?\((?!\w+, weights_only=True)|'
             r'allow_pickle|weights_only=False|read_pickle|extract(all)?\(|os\.system|subprocess|Popen')
    files = [*Path(cli.__file__).parent.rglob('*.py')]
    for file in files: assert not (found := re.search(risky, file.read_text('utf-8'))), (file.name, found)
    assert len({f.parent for f in files}) >= 5
    for t in ('torch.load(f)', 'x = eval(t)', 'np.load(f, allow_pickle=True)'): assert re.search(risky, t)
    for t in ('torch.compile(net).eval()', 'torch.load(f, weights_only=True)', 'np.load(f)'): assert not re.search(risky, t)


# images

def png(width, height):
    "The few bytes of a PNG that says it is so large."
    parts = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b'')]
    chunk = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*p) for p in parts)


def test_a_study_among_hostile_images(tmp_path):
    "Bombs, scripts and links out of it are left out with their reason; the photograph among them is scored; only results are written."
    photos, out, mark = tmp_path/'photos', tmp_path/'out', tmp_path/'mark'
    photos.mkdir()
    Embedded(1)[0].open().save(photos/'good.png')
    (photos/'bomb.png').write_bytes(png(60_000, 60_000))
    (photos/'edge.png').write_bytes(png(MAX_PIXELS//1000 + 1, 1000))
    head = '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
    (photos/'postscript.png').write_text(f'{head}({mark}) (w) file closefile showpage\n')
    (photos/'pickle.jpg').write_bytes(pickle.dumps(Trap(mark), protocol=2))
    (photos/'svg.png').write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{EVIL}</svg>')
    (tmp_path/'secret').write_text('the secret')
    (photos/'link.png').symlink_to(tmp_path/'secret')
    (photos/'nowhere.png').symlink_to(tmp_path/'nothing')
    before = sorted(tmp_path.rglob('*'))
    file = run(Shard(network='mini_mobilenet', data=str(photos), stop=8, images=8, out=str(out), **FEW), PAPER)
    assert set(pd.read_parquet(file).name) == {'good.png'}
    table = select(load('mini_mobilenet'), open_images(photos)).set_index('name').error
    assert table['good.png'] == '' and (table.drop('good.png') != '').all() and len(table) == 8
    assert 'pixels' in table['bomb.png'] and f'more than the {MAX_PIXELS:,}' in table['edge.png']
    assert not mark.exists() and not table.str.contains('the secret').any()
    assert [p for p in sorted(tmp_path.rglob('*')) if out not in (p, *p.parents)] == before
    assert all(p.parent == out for p in out.rglob('*'))


def test_a_text_chunk_that_unfolds(tmp_path):
    "A PNG's compressed text is a bomb of another kind."
    data = png(4, 4)
    bomb = b'x\0\0' + zlib.compress(bytes(2**27))
    chunk = struct.pack('>I', len(bomb)) + b'zTXt' + bomb + struct.pack('>I', zlib.crc32(b'zTXt' + bomb))
    (tmp_path/'a.png').write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(UnreadableImage, match='a.png cannot be read'): Photo(tmp_path/'a.png').open()


# names of files

NAMES = ['../../up', '/absolute', '..', '.', '', 'a/../../b', '~root', '.hidden', '-rf', 'a\0b', 'a\nb', 'x'*5000, '../'*2000, 'ü'*300,
         '\udcff', 'con:', '$(touch x)', '`x`', EVIL, 'a\\..\\b', '%2e%2e%2f']


@pytest.mark.parametrize('name', NAMES, ids=lambda n: ascii(n)[:20])
def test_a_slug_is_one_harmless_part_of_a_file_name(name, tmp_path):
    s = slug(name)
    assert re.fullmatch(r'[A-Za-z0-9@_][A-Za-z0-9@._-]*|', s) and len(s) <= 100
    (tmp_path/f'maps-{s}-corrected-00000-0123456789ab.parquet').write_text('')
    assert [p.parent for p in tmp_path.rglob('*')] == [tmp_path]


def test_long_names_stay_apart(): assert slug('x'*200) != slug('x'*201) and slug('x'*100) == 'x'*100


@pytest.mark.parametrize('name', ['../../up', '/absolute', '', 'a\nb', 'x'*5000], ids=lambda n: ascii(n)[:20])
def test_a_shards_file_and_selection_stay_in_the_results_folder(name, tmp_path, monkeypatch):
    "Whatever a network is called."
    net = replace(load('mini_vgg'), name=name)
    monkeypatch.setattr(room, 'load', lambda *_, **__: net)
    out = tmp_path/'deep'/'out'
    file = run(Shard(network=name, data='embedded:4', stop=1, images=1, out=str(out), **FEW), PAPER)
    assert file.parent == out and len(list(out.iterdir())) == 2
    assert all(p in (out.parent, out) or p.parent == out for p in tmp_path.rglob('*'))
    assert pd.read_parquet(file).network.unique().tolist() == [name]


@pytest.mark.parametrize('where', ['a\0b', 'x'*300, f'ok/{"y"*300}'])
def test_results_folders_that_cannot_be(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='cannot be made.*give another'): results_folder(where)


@pytest.mark.parametrize('spec', ['a\0b', 'x'*5000, '../'*3000, '\udcff', 'file:///etc', 'a\nb'])
def test_data_and_networks_that_name_nothing(spec, tmp_path):
    for say in (lambda: open_images(spec), lambda: load(spec), lambda: load(f'{spec}.py:f'), lambda: load(f'{spec}:f')):
        with pytest.raises(InputError): say()


# parameters

def test_the_shard_notebook_states_the_types_of_a_shard():
    import papermill
    types = {f.name: f.type if isinstance(f.type, str) else f.type.__name__ for f in fields(Shard)}
    stated = {k: p['inferred_type_name'] for k, p in papermill.inspect_notebook(notebook('shard')).items()}
    assert stated and stated.items() <= types.items() and set(types.values()) <= set(TYPES)


WHOLE, TEXTS, NUMBERS = 'int float Optional[int]', 'list[str]', 'list[int]'
KINDS_OF = [('x', 'str'), ('é', 'str'), ('a\0b', ''), ('a\udcff', ''), (b'x', ''), (Path('x'), ''), (None, 'Optional[int]'), (0, WHOLE),
            (-3, WHOLE), (True, 'bool'), (False, 'bool'), (1., 'float'), (float('nan'), ''), (np.int64(3), ''), (np.bool_(True), ''),
            (np.float32(1), ''),
            ([], f'{TEXTS} {NUMBERS}'), (['a'], TEXTS), (('a', 'b'), TEXTS), ([1], NUMBERS), ((2, 3), NUMBERS), (['a', 1], ''),
            ([True], ''), ([1.], ''), ([None], ''), (['a\0'], ''), ([['a']], ''), ({'a': 1}, 'dict'), ({1}, ''), (print, '')]


@pytest.mark.parametrize('value, kinds', KINDS_OF, ids=ascii)
def test_the_kinds_of_a_value(value, kinds):
    for kind in TYPES:
        if kind in kinds.split(): check_kind('p', value, kind)
        else:
            with pytest.raises(InputError) as e: check_kind('p', value, kind)
            assert str(e.value) == f'p is {repr(value)[:80]}; it must be {TYPES[kind]}'


WRONG = dict(paper=[1, None], network=[3, None, ['mini_vgg']], data=[None, b'embedded', 'a\0b'], methods=['ig', [1], None, [['ig']]],
             metrics=['insertion', [1], None], steps=[8, '8', ['8'], [8.], [True], None], protocol=[1, None], start=['0', 0., False],
             stop=['2', None], images=[True, '2'], seed=['0', None, .5], references=[None, True, '1'], exact=['False', 0],
             precision=[32, None], out=[None, Path('r')], device=[0, None], batch_size=['32', True], threads=[1.], keep_maps=['yes', 1])
WRONG = [{k: v} for k, values in WRONG.items() for v in values]
VALUES = [dict(seed=-1), dict(references=-1), dict(start=-1), dict(stop=0), dict(images=1), dict(steps=[0]), dict(steps=[-8]),
          dict(methods=['lime']), dict(metrics=['beauty']), dict(protocol='open'), dict(protocol=''), dict(precision='float16'),
          dict(batch_size=0), dict(threads=0), dict(paper='poem')]


@pytest.fixture
def no_kernel(monkeypatch, tmp_path):
    "Fails where a kernel is about to start, or a file has been written."
    monkeypatch.setattr('papermill.execute_notebook', lambda *_, **__: pytest.fail('a kernel was about to start'))
    yield
    assert not list(tmp_path.iterdir())


def said(wrong, tmp_path):
    "What a shard says of it, and what is said on the way to its notebook."
    with pytest.raises(InputError) as alone: (shard := Shard(**dict(stop=2, images=2) | wrong)).of(load_paper(shard.paper))
    with pytest.raises(InputError) as by_notebook: execute('shard', tmp_path/'out'/'x.ipynb', wrong)
    return str(alone.value), str(by_notebook.value)


@pytest.mark.parametrize('wrong', WRONG, ids=str)
def test_a_shard_of_wrong_types(wrong, tmp_path, no_kernel):
    (name, value), = wrong.items()
    for text in said(wrong, tmp_path): assert text.startswith(f'{name} is {repr(value)[:80]}; it must be ')


@pytest.mark.parametrize('wrong', VALUES, ids=str)
def test_a_shard_of_wrong_values(wrong, tmp_path, no_kernel):
    value = str(*wrong.values()).strip('[]')
    for text in said(wrong, tmp_path): assert value in text and re.search('must|known are|unknown|does not|positive', text), text


@pytest.mark.parametrize('name, wrong, said', [
    ('shard', {'stop=2; import os': 1}, 'has no parameter'),
    ('shard', dict(stepz=[8]), "has no parameter 'stepz'; it has paper, data, train, methods"),
    ('shard', dict(grid='closed'), "has no parameter 'grid'"), ('report', dict(results=1), 'results is 1'),
    ('report', dict(out=None), 'out is None'),
    ('report', dict(maps_of='0'), "maps_of is '0'; it must be a whole number or None"),
    ('report', dict(results=Path('r')), 'results is '),
    ('choose', dict(configuration='x', network='a'), "configuration is 'x'; it must be names with values"),
    ('choose', dict(configuration=dict(grids=['closed']), network='a'), "'grids' is called protocols")], ids=str)
def test_other_parameters(name, wrong, said, tmp_path, no_kernel):
    with pytest.raises(InputError) as e: execute(name, tmp_path/'out'/'x.ipynb', wrong)
    assert said in str(e.value)


def test_right_parameters_pass():
    check_parameters('shard', dict(stop=1))
    check_parameters('shard', asdict(Shard()) | dict(batch_size=None, keep_maps=True, out='r', device='cuda'))
    check_parameters('report', dict(results='r', out='o', maps_of=None))


TRICKS = ['"; import os; os.abort() #', "'); import os; os.abort() #", '\\', '\\"', "'''", '"""', '\n', 'a\nimport os\nos.abort()', '{0}',
          '%s', '\\N{BULLET}', '\r\n', 'é', EVIL]

@pytest.mark.parametrize('text', TRICKS, ids=ascii)
def test_a_parameter_is_a_literal_in_the_notebook(text):
    "Papermill writes parameters into the notebook as code; whatever they hold, the code is their value and no more."
    from papermill.translators import PythonTranslator
    given = dict(data=text, out=text, methods=[text, text], stop=1, keep_maps=False, batch_size=None)
    check_kind('data', text, 'str')
    lines = ast.parse(PythonTranslator.codify(given)).body
    assert all(isinstance(l, ast.Assign) for l in lines)
    assert {l.targets[0].id: ast.literal_eval(l.value) for l in lines} == given


# what a report says

def test_names_in_a_report(tmp_path):
    "Networks, data, file names and the reasons of what was skipped, in every format."
    simulate(tmp_path/'r', networks=(f'{EVIL}|&\n', 'b'), protocols=('corrected',), images=3, steps=(4,), data=f'/tmp/{EVIL}&"\'',
             skipped=[[f'{EVIL}.jpg', f'bad | {EVIL}\n']])
    files = report(tmp_path/'r', tmp_path/'out', PAPER, None)
    assert all(f.parent == tmp_path/'out' and f.is_file() for f in files) and set(files) == set((tmp_path/'out').iterdir())
    text = {f.name: f.read_text('utf-8') for f in files if f.suffix in ('.html', '.md', '.svg')}
    for name, t in text.items(): assert t.lower().count('<script') == (name == 'index.html'), name
    assert '&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;.jpg' in text['index.html']
    rows, manifests = read(tmp_path/'r')
    Image.new('RGB', (2, 2)).save(png := BytesIO(), 'png')
    drawing = Drawing(f'{EVIL}"', f'of class {EVIL}', None)                         # as of classes, in titles and captions
    html = page(rows, manifests, PAPER, all_tables(rows, PAPER), {EVIL: drawing}, {f'{EVIL}.png': png.getvalue()}, [f'A note on {EVIL}'])
    assert html.count('<script') == 1 and html.count('&lt;script&gt;') >= 8 and '&#34;" src=' in html


def test_a_table_of_hostile_cells():
    cells = [EVIL, 'a|b', 'a\nb', '\\input{/etc/passwd}', '$x$ % # & _ ^ ~ { }', '`x`', '<img src=x onerror=alert(1)>', '&lt;']
    t = Table(EVIL, '</caption><script>', pd.DataFrame({EVIL: cells, 'b|b': cells}))
    html, tex = t.html(), t.latex(EVIL)
    assert not re.search(r'<(?!/?(table|thead|tbody|tr|th|td)\b)', html)
    assert html.count('<tr') == len(cells) + 1 and '&amp;lt;' in html
    assert not re.search(r'<(script|img)', t.markdown())
    assert len({len(re.findall(r'(?<!\\)\|', l)) for l in t.markdown().strip().split('\n') if l.startswith('|')}) == 1
    assert '\\input' not in tex and not re.search(r'(?<!\\)[%#$_]', tex.replace('\\label', '').split('\\caption')[1].split('}}')[0])


def test_a_class_and_a_photograph_of_hostile_names(tmp_path, monkeypatch):
    "They are drawn as they are: no formula, no element of the SVG."
    evil = f'{EVIL} $\\frac$ & --> ]]>'
    net = load('mini_resnet')
    monkeypatch.setattr(models, 'load', lambda *_, **__: replace(net, categories=[evil]*10))
    Embedded(1)[0].open().save(photo := tmp_path/'$x^{<b>&.png')
    assert main(['explain', str(photo), '--steps', '2', '--out', str(tmp_path/'maps.svg')]) == 0
    import xml.etree.ElementTree as xml
    tags = {e.tag.split('}')[-1] for e in xml.parse(tmp_path/'maps.svg').iter()}
    assert 'script' not in tags and 'b' not in tags and '<script' not in (tmp_path/'maps.svg').read_text()
