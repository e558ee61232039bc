"What a result file's name stands for: all that changes its numbers, and nothing else."
import importlib, json, sys
from dataclasses import replace

import pandas as pd, pyarrow.parquet as pq, pytest

import idgi_repro as ir
from idgi_repro.method import paths, rules
from idgi_repro.papers.idgi import PAPER
from idgi_repro.papers.loading import load_paper
from idgi_repro.errors import InputError
from idgi_repro.report.results import read
from idgi_repro.records import Measurement, Method, Metric, Paper
from idgi_repro.study import identity, images, models, scene, selection, shard as room
from idgi_repro.study.identity import _digest, code_digest
from idgi_repro.study.images import Embedded
from idgi_repro.study.models import load
from idgi_repro.study.shard import Shard, code_of, run, shard_file

IG = dict(methods=('ig', 'ig+idgi'), metrics=('insertion', 'delta'), steps=(4, 8))
SHARD = Shard(network='mini_vgg', data='embedded:20', images=4, stop=2, seed=3, **IG)
CHOSEN = pd.DataFrame(dict(name=['a', 'b'], digest=['0123', '4567']))


@pytest.fixture(autouse=True)
def fresh():
    "Digests are remembered within a process, in which code does not change but here."
    _digest.cache_clear()
    yield
    _digest.cache_clear()


def key(shard=SHARD, paper=PAPER, weights='w', images=CHOSEN): return shard_file(shard.of(paper), paper, weights, images)


# code: a small module of a user's, as it was and as it is

MODULE = '''"A module."
from my_helper import doubled
import my_constants
import idgi_repro as ir

SIZE, SCALE, NAMES = 2, 3., {'b', 'a'}

def helper(x:int, size=SIZE)->int:
    "Scales."
    return SCALE*doubled(x) + size + len(NAMES)

class Base:
    kind = 'base'
    def add(self, total): return total + helper(total) # adds

class Mine(Base):
    name = 'mine'
    def add(self, total):
        if total is None: raise ValueError(f'{total} is nothing to add to')
        return super().add(total)*my_constants.FACTOR

def top(x):
    return ir.StraightPath(Mine().add(x))

def other(x): return x
'''
BESIDE = dict(my_helper='def doubled(x): return 2*x\ndef unused(x): return x\n', my_constants='FACTOR = 2\n')


def digest(folder, source=MODULE, beside=BESIDE, name='top'):
    "That of a function of the module, which is imported anew."
    folder.mkdir()
    for file, text in (beside | dict(my_module=source)).items(): (folder/f'{file}.py').write_text(text)
    before = {n: sys.modules.pop(n, None) for n in (*beside, 'my_module')}
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return code_digest(getattr(importlib.import_module('my_module'), name))
    finally:
        sys.path.remove(str(folder))
        for n, m in before.items():
            sys.modules.pop(n, None)
            if m: sys.modules[n] = m


@pytest.mark.parametrize('old, new', [
    ('SCALE*doubled', 'SCALE + doubled'), ('3., {', '4., {'), ('NAMES = 2', 'NAMES = 7'), ("{'b', 'a'}", "{'b', 'c'}"),
    ("kind = 'base'", "kind = 'basis'"), ('total + helper(total)', 'helper(total)'), ('class Mine(Base)', 'class Mine(dict)'),
    ('if total is None', 'if total == 0'), ('ir.StraightPath(', 'ir.GuidedPath(')])
def test_changed_code_has_another_digest(tmp_path, old, new):
    assert MODULE.count(old) == 1 and digest(tmp_path/'a') != digest(tmp_path/'b', MODULE.replace(old, new))


@pytest.mark.parametrize('file, old, new', [('my_helper', '2*x', '3*x'), ('my_constants', '2', '3')])
def test_so_has_changed_code_beside_it(tmp_path, file, old, new):
    assert digest(tmp_path/'a') != digest(tmp_path/'b', beside=BESIDE | {file: BESIDE[file].replace(old, new)})


@pytest.mark.parametrize('old, new', [
    ("f'{total} is nothing to add to'", "f'nothing can be added to {total}, {SCALE} or {other}'"), ('"Scales."', '"Multiplies by SCALE."'),
    ('"Scales."\n    ', ''), (' # adds', ' # adds up'), ('x:int', 'x:float'), ('->int', ''), ('other(x): return x', 'other(x): return -x'),
    ('"A module."', ''), ('def other', 'class Another(Base): pass\n\ndef other'), ("    name = 'mine'\n", "    name = 'mine'\n\n\n"),
    ("{'b', 'a'}", "{'a', 'b'}")])
def test_words_and_neighbours_do_not_change_it(tmp_path, old, new):
    assert MODULE.count(old) == 1 and digest(tmp_path/'a') == digest(tmp_path/'b', MODULE.replace(old, new))


def test_nor_does_what_is_not_used_beside_it(tmp_path):
    helper = BESIDE['my_helper'].replace('unused(x): return x', 'unused(x): return -x')
    beside = dict(my_helper=helper, my_constants='FACTOR = 2\nOTHER = 3\n')
    assert digest(tmp_path/'a') == digest(tmp_path/'b', beside=beside)


def test_the_parameters_of_a_rule_are_part_of_it():
    made = [rules.Riemann(), rules.Riemann('left'), rules.Riemann('right'), rules.IDGI(), rules.IDGI(trapezoid=True)]
    assert len({code_digest(r) for r in made}) == len(made) and code_digest(rules.Riemann('left')) == code_digest(made[1])


# keys: what changes them

OTHER = [dict(seed=4), dict(steps=(4, 16)), dict(protocol='published'), dict(exact=True), dict(precision='bf16'), dict(references=2),
         dict(methods=('ig',)), dict(metrics=('insertion',)), dict(start=1), dict(data='embedded:21'), dict(score='logit'), dict(size=160)]

@pytest.mark.parametrize('change', OTHER, ids=str)
def test_another_shard_has_another_key(change): assert key(replace(SHARD, **change)) != key()


SAME = [dict(out='elsewhere'), dict(device='cuda'), dict(threads=3), dict(batch_size=7), dict(keep_maps=True), dict(images=400)]

@pytest.mark.parametrize('change', SAME, ids=str)
def test_how_and_where_it_is_computed_has_not(change): assert key(replace(SHARD, **change)) == key()


def test_references_count_for_the_shards_that_have_some():
    "Images of this shard, not of the study."
    last = replace(SHARD, start=2, stop=4)
    assert key(replace(last, references=1)) == key(last) != key(replace(last, references=3))
    assert key(replace(SHARD, references=1)) != key()


def test_weights_and_images_count():
    other = [key(images=CHOSEN.assign(**c)) for c in (dict(name=['a', 'c']), dict(digest=['0123', '4568']))]
    assert len({key(), key(weights='v'), *other}) == 4


@pytest.mark.parametrize('module', ['torch', 'PIL'])
def test_the_makers_of_numbers_count(module, monkeypatch):
    before = key()
    monkeypatch.setattr(f'{module}.__version__', '99.0')
    assert '99.0' in room.makers().values() and key() != before


def test_the_code_of_a_rule_and_of_a_path_count_for_its_own_methods(monkeypatch):
    both, riemann = key(), key(replace(SHARD, methods=('ig',)))
    with monkeypatch.context() as m:
        source(m, rules.IDGI, 'class IDGI:\n    def add(self, total, s): total.add_(1)\n')
        assert key() != both and key(replace(SHARD, methods=('ig',))) == riemann
    with monkeypatch.context() as m:
        source(m, paths.StraightPath, 'class StraightPath(Curve):\n    def at(self, x, t): return x\n')
        assert key() != both and key(replace(SHARD, methods=('ig',))) != riemann
    with monkeypatch.context() as m:
        for other in (ir.BlurPath, ir.GuidedPath): source(m, other, 'class Other(Curve):\n    pass\n')
        assert key() == both
        assert key(replace(SHARD, methods=('gig',))) != key(replace(SHARD, methods=('blurig',)))
    assert key() == both


def source(m, thing, text):
    "As if `thing` had been written so."
    real = identity._source
    m.setattr(identity, '_source', lambda other: text if other is thing else real(other))
    _digest.cache_clear()


CORE = ['images.decode', 'images.blurred', 'models.Network.normalize', 'scene.views', 'selection._verdict', 'shard._rows',
        'images.Shape.mask', 'images.draw']

@pytest.mark.parametrize('thing', CORE)
def test_the_core_counts_for_all(thing, monkeypatch):
    owner, *names = thing.split('.')
    function = dict(images=images, models=models, scene=scene, selection=selection, shard=room)[owner]
    for name in names: function = getattr(function, name)
    before = key()
    source(monkeypatch, getattr(function, '__wrapped__', function), 'def anything(*_): return 0\n')
    assert key() != before


REST = ['models.load', 'imagenet.open_images', 'files.whole', 'errors.check_kind', 'study.shard.stands', 'study.shard.run']

@pytest.mark.parametrize('thing', REST)
def test_what_only_finds_and_writes_counts_for_none(thing, monkeypatch):
    "Networks are known by their weights and source, images by their bytes."
    where, _, name = thing.rpartition('.')
    module = next(m for n, m in sys.modules.items() if n.startswith('idgi_repro') and n.endswith(f'.{where}'))
    before, function = key(), getattr(module, name)
    source(monkeypatch, getattr(function, '__wrapped__', function), 'def anything(*_): return 0\n')
    assert key() == before


def test_the_code_of_a_measurement_counts_for_its_own_metrics(monkeypatch):
    one, other = (replace(SHARD, metrics=(m,)) for m in ('insertion', 'patchiness'))
    before = key(one), key(other)
    source(monkeypatch, PAPER.metric('insertion').measurement.function, 'def _inserted(scene): return {}\n')
    assert key(one) != before[0] and key(other) == before[1]


def test_another_method_metric_or_paper_orphans_nothing():
    more = replace(PAPER, methods=(*PAPER.methods, Method('new', 'New', lambda s: paths.StraightPath(1.), rules.absolute)),
                   metrics=(Metric('new', 'New', '', Measurement('new', lambda scene: dict(new=scene.column()))), *PAPER.metrics))
    assert key(paper=more) == key() and key(paper=replace(PAPER, title='Another title', claims=(), steps=(3,))) == key()
    assert key(paper=replace(PAPER, methods=PAPER.methods[::-1])) == key()


# from files to keys

NETWORK = '''from torch import nn
from idgi_repro.study.models import load
{imported}
class Net(nn.Module):
    def __init__(self): super().__init__(); self.net = load('mini_vgg').module
    def forward(self, x): return self.net(x){change}
def make():
    from dataclasses import replace
    return replace(load('mini_vgg'), name='mine', module=Net())
'''

def shard_of(network, data, out):
    few = dict(images=1, stop=1, methods=('ig',), metrics=('delta',), steps=(2,))
    return replace(SHARD, network=str(network), data=str(data), out=str(out), **few)


def test_a_changed_forward_of_a_users_network_is_computed_anew(tmp_path):
    "Its weights are the same; so are they where what it imports from beside it has changed."
    file, spec, out = tmp_path/'mine.py', f'{tmp_path/"mine.py"}:make', tmp_path/'out'
    (tmp_path/'my_factor_7.py').write_text('FACTOR = 1.\n')
    found = []
    for text in (NETWORK.format(imported='', change=''), NETWORK.format(imported='', change='*.5'),
                 NETWORK.format(imported='from my_factor_7 import FACTOR', change='*FACTOR')):
        file.write_text(text)
        found.append(run(shard_of(spec, 'embedded:8', out), PAPER))
    (tmp_path/'my_factor_7.py').write_text('FACTOR = .5\n')
    found.append(run(shard_of(spec, 'embedded:8', out), PAPER))
    assert len({*found}) == 4
    delta = [pd.read_parquet(f).delta[0] for f in found]
    assert delta[1] == delta[3] != delta[0] == delta[2]
    stamp = found[-1].stat().st_mtime_ns
    assert run(shard_of(spec, 'embedded:8', out), PAPER) == found[-1] and found[-1].stat().st_mtime_ns == stamp


def test_the_code_of_a_shard_does_not_depend_on_what_was_loaded_before(tmp_path):
    "Else a graph's processes would not agree."
    (tmp_path/'mine.py').write_text(NETWORK.format(imported='', change=''))
    before = code_of(SHARD.of(PAPER), PAPER)
    load(f'{tmp_path/"mine.py"}:make')
    _digest.cache_clear()
    assert code_of(SHARD.of(PAPER), PAPER) == before


def test_a_photograph_replaced_under_its_name_is_computed_anew(tmp_path):
    photos, out = tmp_path/'photos', tmp_path/'out'
    photos.mkdir()
    files, images = [], Embedded(2)
    for i in (0, 1, 0):
        images[i].open().save(photos/'a.png')
        files.append(run(shard_of('mini_vgg', photos, out), PAPER))
    assert files[0] == files[2] != files[1]
    made = [json.loads(pq.read_schema(f).metadata[b'idgi_repro']) for f in files]
    assert made[0]['digests'] != made[1]['digests'] and made[0]['code'] == made[1]['code'] and made[0]['weights'] == made[1]['weights']
    assert pd.read_parquet(files[0]).prob[0] != pd.read_parquet(files[1]).prob[0]


def test_a_users_paper_counts_by_its_code(tmp_path):
    "The path that its method takes, and the module beside it."
    text = ('import idgi_repro as ir\nfrom my_paper_parts import start\nfrom idgi_repro.study.scene import COMPLETENESS\n'
            'METHOD = ir.Method("mine", "Mine", lambda subject: ir.StraightPath(start(subject)), ir.riemann)\n'
            'PAPER = ir.Paper("mine", "Mine", (METHOD,), (ir.Metric("delta", "Delta", "", COMPLETENESS),))\n')
    parts, spec = 'def start(subject): return 0.\n', f'{tmp_path/"paper.py"}:PAPER'
    def found(text=text, parts=parts):
        (tmp_path/'paper.py').write_text(text)
        (tmp_path/'my_paper_parts.py').write_text(parts)
        paper = load_paper(spec)
        return key(replace(SHARD, methods=(), metrics=(), paper=spec), paper)
    first = found()
    assert found() == found(text + '# the end\n') == found(parts=parts + 'def other(): return 1\n') == first
    assert found(text.replace('ir.riemann', 'ir.idgi')) != first != found(parts=parts.replace('0.', '1.'))
    assert found(text.replace('StraightPath(start(subject))', 'GuidedPath(start(subject))')) != first


def test_a_lambda_is_what_it_says_wherever_it_stands(tmp_path):
    "Not the rest of its line; and what it refers to counts."
    text = 'from my_helper import doubled\ndef keep(*what): return what[0]\ntop = keep(\n    lambda x: doubled(x), \'title\')\n'
    helper = dict(my_helper=BESIDE['my_helper'].replace('2*x', '3*x'))
    first = digest(tmp_path/'a', text)
    assert first == digest(tmp_path/'b', text.replace('title', 'other'))
    assert first != digest(tmp_path/'c', text.replace('doubled(x)', 'doubled(-x)')) and first != digest(tmp_path/'d', text, helper)


def test_a_method_that_takes_a_finished_map_counts_by_what_that_is_made_of(monkeypatch):
    "Whether or not the other method is asked for as well."
    paper = replace(PAPER, methods=(*PAPER.methods, Method('half', 'Half', function=lambda maps: maps/2, of='ig')))
    half = replace(SHARD, methods=('half',))
    other = replace(PAPER, methods=(*PAPER.methods, Method('half', 'Half', function=lambda maps: maps/2, of='gig')))
    assert key(half, paper) != key(half, other)
    before = key(half, paper)
    source(monkeypatch, paths.StraightPath, 'class StraightPath(Curve):\n    def at(self, x, t): return x\n')
    assert key(half, paper) != before


# from a study to what its report reads

def test_a_study_of_a_changed_network_reads_the_new_rows(tmp_path):
    "The old ones stand in their own file, give way to the later, and are named."
    spec, out, said = f'{tmp_path/"scaled.py"}:make', tmp_path/'out', []
    for factor in (8, 2):
        (tmp_path/'scaled.py').write_text(NETWORK.format(imported='', change=f'*{factor}/8'))
        file = run(shard_of(spec, 'embedded:8', out), PAPER)
        rows, manifests = read(out, notes := [])
        assert [m['file'] for m in manifests] == [file.name] and len(rows) == 1
        said.append((rows.delta[0], len(notes)))
    assert said[0][0] != said[1][0] and [n for _, n in said] == [0, 1]


def folders(root, *classes):
    "Class folders of one image each."
    for i, name in enumerate(classes):
        (root/name).mkdir(parents=True)
        Embedded(10)[i].open().save(root/name/f'{i}.png')
    return root


def test_another_class_list_is_another_choice(tmp_path):
    "The classes in another order: other images are right, so that other rows are computed."
    classes, found = list('abcdefghij'), []
    for k, names in enumerate((classes, classes[::-1], classes)):
        folder = tmp_path/'data'
        if folder.exists(): folder.rename(tmp_path/f'before{k}')
        try: found.append(run(replace(shard_of('mini_resnet', folders(folder, *names), tmp_path/'out'), images=3, stop=3), PAPER).name)
        except InputError as e: found.append(str(e))
    assert found[0] == found[2] != found[1]


def test_a_file_of_numbers_beside_a_network_counts(tmp_path):
    "What a module keeps of it is part of the fingerprint, though it is neither weights nor code."
    (tmp_path/'tempered.py').write_text('import json, pathlib\nfrom torch import nn\nclass Net(nn.Flatten):\n'
        '    def __init__(self): super().__init__(); self.t = json.loads((pathlib.Path(__file__).parent/"t.json").read_text())\n'
        '    def forward(self, x): return super().forward(x)*self.t\ndef make(): return Net()\n'
        'def function():\n    net = Net()\n    return lambda x: net(x)\n')
    for function in ('make', 'function'):
        prints = []
        for t in ('8', '2', '8'):
            (tmp_path/'t.json').write_text(t)
            prints.append(load(f'{tmp_path}/tempered.py:{function}').fingerprint())
        assert prints[0] == prints[2] != prints[1]
