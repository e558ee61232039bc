"Two things of one name: networks, classes."

from types import SimpleNamespace

import pytest, torch

from idgi_repro.cli import _target
from idgi_repro.errors import InputError
from idgi_repro.report.results import read
from idgi_repro.study.shard import write


# classes

NAMES = 'cat', '3', 'dog', 'cat', '7', '5', 'name:cat', '7', 'index:0', '-1'

def said(target, names=NAMES): return _target(SimpleNamespace(name='net', categories=names and [*names]), torch.zeros(len(NAMES)), target)

@pytest.mark.parametrize('target, c', [('dog', 2), ('name:dog', 2), ('2', 2), ('index:2', 2), ('0', 0), ('name:3', 1), ('index:3', 3), ('name:5', 5),
    ('5', 5), ('index:5', 5), ('name:cat', 6), ('index:0', 8), ('index:7', 7), ('-1', 9), ('06', 6), ('index:9', 9)])
def test_a_class_is_found(target, c):
    "By its index or by its name; a number that is both, of one class, is that class."
    assert said(target) == c

@pytest.mark.parametrize('target, words', [
    ('cat', ('index:0', 'index:3')), ('3', ('name:3', 'index:3')), ('7', ('index:4', 'index:7')), ('name:7', ('index:4', 'index:7')),
    ('10', ('0 to 9',)), ('-2', ('0 to 9',)), ('index:10', ('0 to 9',)), ('index:cat', ('unknown class',)), ('name:fish', ('unknown class',)),
    ('Cat', ('unknown class', 'cat, 3, dog')), ('', ('unknown class',)), ('name:2', ('unknown class',))])
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
    [('/a/net.py:make', 'net:make', 'u', 'a/net:make'), ('/b/net.py:make', 'net:make', 'v', 'b/net:make'), ('/c/net.py:make', 'net:make', 'v', 'c/net:make')]]

@pytest.mark.parametrize('networks', NETWORKS, ids=lambda n: ' '.join(s for s, *_ in n))
def test_networks_of_one_name_are_told_apart(networks, tmp_path):
    for i, (spec, name, weights, _) in enumerate(networks): shard(tmp_path, spec, name, weights, float(i))
    rows, manifests = read(tmp_path, notes := [])
    called = {label: float(i) for i, (*_, label) in enumerate(networks)}
    assert dict(zip(rows.network, rows.insertion)) == called and {m['network'] for m in manifests} == {*called} and not notes

@pytest.mark.parametrize('one, other', [('net.py:make', '/a/net.py:make'), ('/a/net.py:make', '/b/net.py:make'), ('resnet50', 'resnet50@IMAGENET1K_V2')])
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
