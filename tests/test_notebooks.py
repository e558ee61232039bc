"Executed notebooks: workflow/notebooks.py says where one is not, and what it stores can be committed."
import base64, importlib.util, io, json
from pathlib import Path

import numpy as np, pytest
from PIL import Image

FILE = Path(__file__).resolve().parents[1]/'workflow'/'notebooks.py'
spec = importlib.util.spec_from_file_location('notebooks', FILE)
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)


def cell(source, *outputs, id='0a1b2c3d', **more):
    return dict(cell_type='code', execution_count=None, id=id, metadata={}, outputs=[*outputs], source=source.splitlines(True)) | more

def printed(text, name='stdout'): return dict(output_type='stream', name=name, text=text)

def shown(**data): return dict(output_type='display_data', metadata={}, data={k.replace('_', '/'): v for k, v in data.items()})

def png(side, seed=0):
    "A picture that no compression makes smaller."
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(out := io.BytesIO(), 'PNG')
    return out.getvalue()

def notebook(*cells, executed=True):
    nb = dict(cells=[*cells], metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4,
              nbformat_minor=5)
    if executed: nb['metadata']['executed'] = notebooks.digest(nb)
    return nb

def written(folder, *cells, **more):
    file = folder/'some.ipynb'
    file.write_text(notebooks.written(notebook(*cells, **more)), 'utf-8')
    return file


SPEAKS = ['print(1)', 'with a: print(1)', 'for i in x: print(i)', '[print(i) for i in x]', 'display(x)', 'show(x, y)', 'x', 'x.T',
          'x[0], y', '{k: 1 for k in x}', 'x == y', '"text"',
          'pd.DataFrame(x)', 'Markdown(x)', 'x.round(4)', 'fig, axes = plt.subplots()', 'plt.show()', 'plt.imshow(x);', 'fig', 'x = 1\nx',
          'f"{x}"', '#| hide\nprint(1)']
SILENT = ['', '# print(1)', 'assert x', 'x = 1', 'x = print', 'def f(): print(1)', 'class A:\n    def f(self): display(1)',
          'f = lambda: print(1)', 'import x', 'plt.rc("font", size=8)',
          'plt.rcParams["a"] = 1', 'sns.set_theme()', 'test_fail(lambda: f(), contains="x")', 'x.append(1)', 'run(x)', 'x;', 'None',
          'if x: print(1)', 'try: f()\nexcept E as e: print(e)',
          'with redirect_stdout(s): print(1)', 'print(1, file=s)', 'fig = plt.figure()\nplt.close(fig)', 'a and print(a)',
          '%matplotlib inline', 'assert print', 'shown = 1', 'del x']

@pytest.mark.parametrize('source', SPEAKS)
def test_a_cell_that_prints_or_draws_is_known(source): assert notebooks.prints_or_draws(source)

@pytest.mark.parametrize('source', SILENT)
def test_a_silent_cell_is_known(source): assert not notebooks.prints_or_draws(source)

@pytest.mark.parametrize('source,skip', [('#| slow\nprint(1)', True), ('#|cuda\nprint(1)', True), ('#| hide\n#| slow\nx', True),
                                         ('#| eval: false\nx', True), ('#| hide\nx', False), ('# slow\nx', False),
                                         ('x = "#| slow"', False)])
def test_cells_that_nbdev_test_skips_are_skipped(source, skip): assert notebooks.skipped(source) == skip


def test_the_hash_is_of_the_code_alone():
    one = notebook(cell('x = 1'), cell('x'))
    assert notebooks.digest(one) == notebooks.digest(notebook(cell('x = 1'), dict(cell_type='markdown', source='text'),
                                                              cell('x', printed('1'))))
    assert len({notebooks.digest(n) for n in (one, notebook(cell('x = 2'), cell('x')), notebook(cell('x = 1\nx')),
                                              notebook(cell('x'), cell('x = 1')))}) == 4


def test_a_good_notebook_has_no_faults(tmp_path):
    text = ['insertion 0.53, at /workflow/config, in 4 steps\n', 'see figures/tmp and ../work/x, s = 3, 12 images\n',
            'https://example.org/home/x\n']
    picture = base64.b64encode(png(100)).decode()
    assert [*notebooks.faults(written(tmp_path, cell('x = 1'), cell('print(x)', printed(text), shown(image_png=picture)),
                                      cell('#| slow\nprint(x)')))] == []


HOME = '/'.join(['', 'home', 'me', 'x.py'])
@pytest.mark.parametrize('cells,said', [
    ([cell('print(1)')], 'cell 1 (0a1b2c3d): prints or draws, and has no output'),
    ([cell('x = 1'), cell('f()', printed(HOME), id='ffff0000')], 'cell 2 (ffff0000): its output holds a path of a machine'),
    *[([cell('f()', printed(f'in {path}'))], 'a path of a machine')
      for path in ('/tmp/x', '/root', '/work/x', 'lib/site-packages/torch', 'folder tmpab12_3de', str(notebooks.ROOT))],
    *[([cell('f()', printed(f'it took {text}'))], 'a timing')
      for text in ('3.1 ms', '12 seconds', '4ms', '1.2 s per image', 'Wall time: 3', 'gradient_ms', 'minutes')],
    *[([cell('f()', printed(text))], 'a progress bar') for text in (' 50%|#####     | 1/2', '12.5it/s', 'progress 0.120')],
    ([cell('f()', shown(text_html=[f'<td>{HOME}</td>']))], 'a path of a machine'),
    ([cell('f()', shown(text_plain='<function f at 0x7f12ab>'))], 'an address'),
    ([cell('f()', shown(image_png=base64.b64encode(png(250)).decode()))], 'more than 100'),
    ([cell('f()', printed('warning', 'stderr'))], 'standard error'),
    ([cell('f()', dict(output_type='error', ename='E', evalue='', traceback=[]))], 'an error'),
    ([cell('x = 1', execution_count=3)], 'nbdev_clean would change it'),
    ([cell('x = 1', metadata=dict(collapsed=True))], 'nbdev_clean would change it'),
    ([dict(cell_type='markdown', metadata={}, source='text')], 'nbdev_clean would change it')])
def test_every_fault_is_found_and_its_cell_named(tmp_path, cells, said):
    faults = [*notebooks.faults(written(tmp_path, *cells))]
    assert any(said in f for f in faults) and len(faults) <= 2, faults

def test_a_changed_notebook_and_one_never_executed_are_named(tmp_path, capsys):
    file = written(tmp_path, cell('x = 1'))
    file.write_text(file.read_text('utf-8').replace('x = 1', 'x = 2'), 'utf-8')
    assert notebooks.main(['check', str(file)]) == 1 and 'some.ipynb: its code is not the code that was executed' in capsys.readouterr().err
    assert notebooks.main(['check', str(written(tmp_path, cell('x = 1'), executed=False))]) == 1
    assert 'never executed' in capsys.readouterr().err
    assert notebooks.main(['check', str(written(tmp_path, cell('x = 1')))]) == 0


def test_what_is_stored_is_tidy():
    bar = ' 10%|#   | 1/10 [00:01, 2.00it/s]\r100%|####| 10/10 [00:05, 2.00it/s]\n'
    told = notebooks.tidy([printed('one\n'), printed('said', 'stderr'), printed('two <A at 0x7f3a>\nprogress 0.010\n'),
                           printed(bar + 'first\rlast\n'), printed('\x1b[31mred\x1b[0m')])
    assert told == [dict(output_type='stream', name='stdout', text=['one\n', 'two <A>\n', 'last\n', 'red'])]
    assert notebooks.tidy([printed(bar)]) == []
    picture, other = base64.b64encode(png(40)).decode(), {'application/vnd.jupyter.widget-view+json': {}, 'text/plain': 'bar'}
    drawn = dict(output_type='execute_result', execution_count=3,
                 metadata={'image/png': dict(width=30, height=30), 'needs_background': 'light'},
                 data={'image/png': picture, 'image/svg+xml': '<svg/>', 'text/plain': '<Figure>\n'})
    found, = notebooks.tidy([dict(output_type='display_data', metadata={}, data=other), drawn])
    assert found['metadata'] == {'image/png': dict(width=30, height=30)} and found['execution_count'] is None
    assert set(found['data']) == {'image/png', 'text/plain'}
    assert found['data']['text/plain'] == ['<Figure>\n'] and isinstance(found['data']['image/png'], str)

@pytest.mark.parametrize('side', [90, 240, 400])
def test_pictures_are_made_small_enough(side):
    packed = notebooks.smaller(png(side))
    assert len(packed) <= notebooks.LIMIT and packed == notebooks.smaller(png(side))
    size = Image.open(io.BytesIO(packed)).size
    assert size == (side, side) if side < 300 else size[0] < side


def test_a_notebook_is_executed_once_for_its_code(tmp_path, monkeypatch, capsys):
    "One kernel, of the running interpreter, in the notebook's folder."
    sources = ['import sys\nfrom pathlib import Path\nfrom tqdm import tqdm', 'for _ in tqdm(range(2)): print("said")',
               'print(Path("some.ipynb").exists(), sys.executable == %r)' % notebooks.sys.executable,
               'print("warned", file=sys.stderr)\nobject()', '#| slow\n1/0']
    file = written(tmp_path, *(cell(s, printed('old'), id=f'0000000{i}') for i, s in enumerate(sources)), executed=False)
    assert notebooks.main(['execute', str(file)]) == 0
    nb = json.loads(file.read_text('utf-8'))
    assert [[notebooks.text(o.get('text') or o['data']['text/plain']) for o in c['outputs']] for c in nb['cells']] == [[], ['said\nsaid\n'],
        ['True True\n'], ['<object>'], []]
    assert [*notebooks.faults(file)] == []
    assert nb['metadata']['kernelspec'] == dict(display_name='python3', language='python', name='python3')
    assert file.read_text('utf-8') == notebooks.written(notebooks.clean(nb))
    monkeypatch.setattr(notebooks, 'run', lambda *_: pytest.fail('nothing changed, and a kernel was about to start'))
    capsys.readouterr()
    assert notebooks.main(['execute', str(file)]) == 0 and capsys.readouterr().out == ''
    def fails(*_): raise ValueError('\x1b[31mwrong')
    monkeypatch.setattr(notebooks, 'run', fails)
    assert notebooks.main(['execute', '--all', str(file)]) == 1 and 'some.ipynb: not executed: wrong' in capsys.readouterr().err
