"Two things of one name: networks, classes, images."

import pickle, tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report.explain import _target
from idgi_repro.report.maps import _photograph
from idgi_repro.report.results import KEY, read
from idgi_repro.study import shard as room
from idgi_repro.study.images import Photo, named_apart, told_apart
from idgi_repro.study.imagenet import open_images, unreadable
from idgi_repro.study.models import Network
from idgi_repro.study.selection import select
from idgi_repro.study.shard import Shard, contents, run, write


# classes

NAMES = 'cat', '3', 'dog', 'cat', '7', '5', 'name:cat', '7', 'index:0', '-1'

def said(target, names=NAMES): return _target(SimpleNamespace(name='net', categories=names and [*names]), torch.zeros(len(NAMES)), target)

@pytest.mark.parametrize('target, c', [('dog', 2), ('name:dog', 2), ('2', 2), ('index:2', 2), ('0', 0), ('name:3', 1), ('index:3', 3),
                                       ('name:5', 5),
    ('5', 5), ('index:5', 5), ('name:cat', 6), ('index:0', 8), ('index:7', 7), ('-1', 9), ('06', 6), ('index:9', 9)])
def test_a_class_is_found(target, c):
    "By its index or by its name; a number that is both, of one class, is that class."
    assert said(target) == c

@pytest.mark.parametrize('target, words', [
    ('cat', ('index:0', 'index:3')), ('3', ('name:3', 'index:3')), ('7', ('index:4', 'index:7')), ('name:7', ('index:4', 'index:7')),
    ('10', ('0 to 9',)), ('-2', ('0 to 9',)), ('index:10', ('0 to 9',)), ('index:cat', ('unknown class',)),
    ('name:fish', ('unknown class',)), ('Cat', ('unknown class', 'cat, 3, dog')), ('', ('unknown class',)), ('name:2', ('unknown class',))])
def test_a_class_is_refused(target, words):
    with pytest.raises(InputError) as e: said(target)
    assert all(w in str(e.value) for w in words) and 'class' in str(e.value)

def test_without_names_there_are_indices():
    assert said('3', None) == said('index:3', None) == 3
    with pytest.raises(InputError, match='unknown class'): said('cat', None)

def test_torchvisions_own_names():
    from torchvision.models import ResNet50_Weights
    names = ResNet50_Weights.DEFAULT.meta['categories']
    net = SimpleNamespace(name='resnet50', categories=names)
    for twice in {n for n in names if names.count(n) > 1}:
        with pytest.raises(InputError, match=f'index:{names.index(twice)} or index:'): _target(net, torch.zeros(1000), twice)
    assert _target(net, torch.zeros(1000), 'tench') == 0


# networks in one folder of results

def shard(folder, spec, name, weights, value, **asked):
    "A result file of one row."
    row = dict(network=name, data='d', name='a.png', label=0, target=0, method='ig', steps=8, protocol='corrected', insertion=value)
    manifest = dict(shard=dict(network=spec, data='d', protocol='corrected', methods=['ig'], metrics=['insertion'], **asked),
                    version='1', weights=weights, seconds=1., skipped=[], failed=[])
    write([row], manifest, folder/f'{len(list(folder.iterdir())):02d}.parquet')

NETWORKS = [ # what was asked for, its name, its weights; what it is called
    [('/a/net.py:make', 'net:make', 'u', 'a/net:make'), ('/b/net.py:make', 'net:make', 'v', 'b/net:make')],
    [('/x/a/net.py:make', 'net:make', 'u', 'x/a/net:make'), ('/y/a/net.py:make', 'net:make', 'v', 'y/a/net:make')],
    [('n.py:small', 'mine', 'u', 'mine (n.py:small)'), ('n.py:large', 'mine', 'v', 'mine (n.py:large)')],
    [('a.py:make', 'mine', 'u', 'mine (a.py:make)'), ('b.py:make', 'mine', 'v', 'mine (b.py:make)'), ('c.py:make', 'other', 'w', 'other')],
    [('a.b:make', 'mine', 'u', 'mine (a.b:make)'), ('c.b:make', 'mine', 'v', 'mine (c.b:make)')],
    [('net.py:make', 'net:make', 'u', 'net:make'), ('/a/net.py:make', 'net:make', 'v', 'a/net:make')],
    [('resnet50', 'resnet50', 'u', 'resnet50'), ('a/r.py:f', 'resnet50', 'v', 'resnet50 (r.py:f)')],
    [('/a/net.py:make', 'net:make', 'u', 'a/net:make'), ('/b/net.py:make', 'net:make', 'v', 'b/net:make'),
     ('/c/net.py:make', 'net:make', 'v', 'c/net:make')]]

@pytest.mark.parametrize('networks', NETWORKS, ids=lambda n: ' '.join(s for s, *_ in n))
def test_networks_of_one_name_are_told_apart(networks, tmp_path):
    for i, (spec, name, weights, _) in enumerate(networks): shard(tmp_path, spec, name, weights, float(i))
    rows, manifests = read(tmp_path, notes := [])
    called = {label: float(i) for i, (*_, label) in enumerate(networks)}
    assert dict(zip(rows.network, rows.insertion)) == called and {m['network'] for m in manifests} == {*called} and not notes

@pytest.mark.parametrize('one, other', [('net.py:make', '/a/net.py:make'), ('/a/net.py:make', '/b/net.py:make'),
                                        ('resnet50', 'resnet50@IMAGENET1K_V2')])
def test_one_network_is_one(one, other, tmp_path):
    "Of the same weights, whatever it was called by."
    for i, spec in enumerate((one, other)): shard(tmp_path, spec, 'net:make', 'u', float(i))
    rows, _ = read(tmp_path, notes := [])
    assert [*rows.network] == ['net:make'] and not notes

@pytest.mark.parametrize('one', ['net.py:make', '/a/net.py:make', 'mini_vgg'])
def test_what_cannot_be_told_apart_is_said(one, tmp_path):
    "As after the network's file was changed."
    for weights in 'uv': shard(tmp_path, one, 'net:make', weights, 0.)
    rows, _ = read(tmp_path, notes := [])
    assert len(rows) == 1 and 'mixed, weights u' in notes[0]

@pytest.mark.parametrize('asked', [dict(score='logit'), dict(size=32), dict(precision='bf16'), dict(exact=True)], ids=str)
def test_so_are_results_that_were_asked_for_otherwise(asked, tmp_path):
    for more in (dict(score='probability', size=64, precision='float32', exact=False), asked): shard(tmp_path, 'n', 'n', 'u', 0., **more)
    read(tmp_path, notes := [])
    k, v = next(iter(asked.items()))
    assert len(notes) == 1 and f'{k} {v}' in notes[0]


# images of one data set

def picture(i): return Image.new('RGB', (20, 10), (10*i, 80, 120))

def folder(at, *names):
    "Pictures that differ, under these names."
    for i, name in enumerate(names):
        (at/name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(at/name)
    return at

def tar(at, *names):
    folder(at/'unpacked', *names)
    with tarfile.open(at/'x.tar', 'w') as t: [t.add(at/'unpacked'/n, n) for n in names]
    return at/'x.tar'

def tables(at, *files):
    "Parquet files of a column of images each, under these noted names."
    folder(at/'from', 'a.png')
    for k, names in enumerate(files):
        image = pa.array([dict(bytes=(at/'from/a.png').read_bytes(), path=n) for n in names],
                         pa.struct([('bytes', pa.binary()), ('path', pa.string())]))
        pq.write_table(pa.table({'image': image}), at/f'test-{k}.parquet')
    return at

def noted(at, *names):
    (at/'wnids.txt').write_text('n01440764\nn01443537\n')
    (at/'val_annotations.txt').write_text(''.join(f'{n}\tn01443537\n' for n in {n.split('/')[-1] for n in names}))
    return folder(at, *names)

def kaggle(at, *names):
    (at/'LOC_synset_mapping.txt').write_text('n01440764 tench\nn01443537 goldfish\n')
    (at/'LOC_val_solution.csv').write_text(''.join(f'{n.partition(".")[0]},n01443537 1 2 3 4\n' for n in {n.split('/')[-1] for n in names}))
    return tar(at, *names)

def cifar(at, *names):
    (at/'cifar-10-batches-py').mkdir()
    for name, what in dict(test_batch=dict(data=np.zeros((len(names), 3072), np.uint8), labels=[0]*len(names), filenames=[*names]),
                           **{'batches.meta': dict(label_names=['a'])}).items():
        (at/'cifar-10-batches-py'/name).write_bytes(pickle.dumps({k.encode(): v for k, v in what.items()}))
    return at

SETS = dict( # how the pictures lie, what they are called there, what they are called in rows, and whether they have labels
    flat          = (folder, ['1.png', '2.png'], ['1.png', '2.png'], False),
    single        = (folder, ['1.png'], ['1.png'], False),
    classes       = (folder, ['cat/1.png', 'cat/2.png', 'dog/3.png'], ['1.png', '2.png', '3.png'], True),
    alike         = (folder, ['cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/3.png'], ['cat/1.png', '2.png', 'dog/1.png', '3.png'], True),
    numbered      = (folder, ['0/x.png', '1/x.png', '10/x.png'], ['0/x.png', '1/x.png', '10/x.png'], True),
    within        = (folder, ['val/cat/1.png', 'val/dog/1.png'], ['cat/1.png', 'dog/1.png'], True),
    control       = (folder, ['a\x01.png', 'a\x02.png', 'b\x01.png'], ['0/a?.png', '1/a?.png', 'b?.png'], False),
    annotated     = (noted, ['val/x/1.png', 'val/y/1.png', 'val/y/2.png'], ['x/1.png', 'y/1.png', '2.png'], True),
    tar           = (tar, ['a/1.png', 'b/1.png', 'b/2.png'], ['a/1.png', 'b/1.png', '2.png'], False),
    tarclasses    = (tar, ['n01440764/1.png', 'n01443537/1.png'], ['n01440764/1.png', 'n01443537/1.png'], True),
    tardeep       = (tar, ['1.png', 'a/1.png', 'a/x/1.png', 'b/x/1.png'], ['1.png', 'a/1.png', 'a/x/1.png', 'b/x/1.png'], False),
    csv           = (kaggle, ['a/1.png', 'b/1.png', 'b/2.png'], ['a/1.png', 'b/1.png', '2.png'], True),
    table         = (tables, [['a/1.png', '2.png', 'b/1.png', None]], ['a/1.png', '2.png', 'b/1.png', 'test-0-00003'], False),
    backslash     = (tables, [['a\\1.png', 'b\\1.png']], ['a/1.png', 'b/1.png'], False),
    tables        = (tables, [['1.png', '2.png'], ['1.png', None]], ['0/1.png', '2.png', '2/1.png', 'test-1-00001'], False),
    oneforall     = (tables, [['image.png']*3], ['0/image.png', '1/image.png', '2/image.png'], False),
    cifar         = (cifar, ['a.png', 'b.png', 'a.png'], ['0/a.png', 'b.png', '2/a.png'], True))

@pytest.mark.parametrize('case', SETS)
def test_no_two_images_of_a_set_share_a_name(tmp_path, case):
    make, there, names, labelled = SETS[case]
    try: images = open_images(make(tmp_path, *there))
    except OSError: pytest.skip('this file system takes no such names')
    found = [i.name for i in images]
    assert found == names and len({*found}) == len(found) and not unreadable(images)
    assert (images.categories is not None) == labelled and all((i.label is None) != labelled for i in images)
    for again in (open_images(images.spec), open_images(images.spec, labels=False)): assert [i.name for i in again] == found

@pytest.mark.parametrize('seed', range(20))
def test_the_shortest_ends_that_tell_apart(seed):
    rng = np.random.default_rng(seed)
    some = ['/'.join(rng.choice(['a', 'b', '0', '1'], rng.integers(1, 5))) for _ in range(40)]
    assert len({*told_apart(some)}) == len(some)
    entries = [*dict.fromkeys(some)]
    ends = lambda end: sum(f'/{e}'.endswith(f'/{end}') for e in entries)
    for entry, name in zip(entries, told_apart(entries)):
        shorter = name.partition('/')[2]
        assert f'/{entry}'.endswith(f'/{name}') and (name == entry or ends(name) == 1) and (not shorter or ends(shorter) > 1)

def test_what_is_told_apart_keeps_all_else():
    items = [Photo(Path('a/1.png'), 3), Photo(Path('b/1.png'), 4), Photo(Path('b/2.png'))]
    assert [(i.path, i.label) for i in named_apart(items)] == [(i.path, i.label) for i in items] and named_apart(items)[2] is items[2]

class Reds(nn.Module):
    "Gives every image the same class, more surely the redder it is."
    def forward(self, x): return torch.stack([x[:, 0].mean((1, 2)) + 1, -x.mean((1, 2, 3))], 1)

def test_a_study_has_rows_of_each_of_two_images_of_one_name(tmp_path, monkeypatch):
    data, net = tar(tmp_path, 'a/1.png', 'b/1.png', 'b/2.png'), Network('reds', Reds(), resize=8, crop=8)
    monkeypatch.setattr(room, 'network_of', lambda spec, shard: net)
    run(Shard(network='reds', data=str(data), methods=('ig',), metrics=('delta',), steps=(1,), images=9, stop=9, exact=True,
              out=str(tmp_path/'out')), PAPER)
    rows, _ = read(tmp_path/'out')
    assert sorted(rows.name) == ['2.png', 'a/1.png', 'b/1.png'] and not rows.duplicated(KEY).any() and rows.delta.nunique() == 3
    for name, shade in {'a/1.png': 0, 'b/1.png': 10, '2.png': 20}.items():
        batch = _photograph(net, dict(name=name), data)
        assert batch.names == [name] and (batch.pixels[0, 0]*255).round().unique().tolist() == [shade]

def test_names_count_in_what_is_kept(tmp_path):
    "A second image of a name renames the first, whose selection and whose training references are others' then."
    net, data = Network('reds', Reds(), resize=8, crop=8), folder(tmp_path/'data', 'cat/1.png', 'dog/2.png')
    before = open_images(data)
    assert select(net, before, cache=tmp_path).name.tolist() == ['1.png', '2.png']
    after = open_images(folder(data, 'cat/1.png', 'dog/2.png', 'dog/1.png'))
    assert select(net, after, cache=tmp_path).name.tolist() == ['cat/1.png', 'dog/1.png', '2.png']
    assert contents(after) != contents(before)
