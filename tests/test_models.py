"Networks: what a notebook cell is the wrong place for, and every mistake a user can make when naming one."
import os, sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import pytest, torch, torchvision
from PIL import Image
from torch import nn

from idgi_repro.cli import main
from idgi_repro.method.gradients import predict
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.images import Embedded
from idgi_repro.study.selection import select
from idgi_repro.errors import InputError
from idgi_repro.study.embedded import EMBEDDED, WEIGHTS
from idgi_repro.study.models import IMAGENET, Network, load

REALDATA = Path(os.environ.get('IDGI_SHARED') or Path(__file__).resolve().parents[2]/'shared')/'realdata'
realdata = pytest.mark.skipif(not (REALDATA/'realdata.py').is_file(), reason='real networks and images are not here')


@pytest.mark.parametrize('name', EMBEDDED)
def test_embedded_networks_keep_what_is_promised(name):
    assert (WEIGHTS/f'{name}.safetensors').stat().st_size < 1_000_000
    net = load(name)
    assert not net.module.training and not any(p.requires_grad for p in net.module.parameters())
    table = select(net, Embedded(200))
    assert table.correct.mean() >= .9 and table.confident.mean() >= .5


@pytest.mark.parametrize('name', IMAGENET)
def test_a_missing_download_names_file_folder_and_url(name, hub):
    with pytest.raises(InputError) as e: load(name)
    weights = torchvision.models.get_model_weights(name)[IMAGENET[name][0]]
    for said in (weights.url, str(hub), Path(weights.url).name): assert said in str(e.value)


@pytest.mark.parametrize('error', [URLError('x'), HTTPError('u', 503, 'busy', None, None), TimeoutError('slow'),
                                   ConnectionResetError('gone')])
def test_every_kind_of_failed_download(error, hub, monkeypatch):
    def refuse(*args, **kwargs): raise error
    monkeypatch.setattr('torch.hub.urlopen', refuse)
    with pytest.raises(InputError, match='place it as'): load('resnet50')


def test_a_file_in_its_place_is_loaded_without_a_download(hub):
    there = torchvision.models.mobilenet_v2()
    torch.save(there.state_dict(), hub/'mobilenet_v2-7ebf99e0.pth')
    net = load('mobilenet_v2')
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(net.module(x), there.eval()(x))
    assert (net.resize, net.crop, len(net.categories)) == (232, 224, 1000)


def test_other_weights_bring_their_own_sizes(hub):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), hub/'mobilenet_v2-b0353104.pth')
    net = load('mobilenet_v2@IMAGENET1K_V1')
    assert (net.name, net.resize, net.crop) == ('mobilenet_v2@IMAGENET1K_V1', 256, 224)


def test_any_classifier_of_torchvision_by_name(hub):
    there = torchvision.models.efficientnet_b0()
    torch.save(there.state_dict(), hub/torchvision.models.EfficientNet_B0_Weights.DEFAULT.url.rsplit('/', 1)[1])
    net, photo = load('efficientnet_b0', score='probability'), Embedded(1)[0].open()
    theirs = torchvision.models.EfficientNet_B0_Weights.DEFAULT.transforms()(photo)
    assert torch.allclose(net.normalize(net.pixels(photo)), theirs, atol=.06) # theirs resizes bytes
    assert (net.resize, net.crop, net.filter, net.category(1)) == (256, 224, 'bicubic', 'goldfish')
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(net.module(x), there.eval()(x))


@pytest.mark.parametrize('name', torchvision.models.list_models(module=torchvision.models))
def test_every_classifier_of_torchvision_has_what_its_weights_say(name, monkeypatch):
    monkeypatch.setattr('idgi_repro.study.models._pretrained', lambda name, weights: nn.Flatten())
    for weights in torchvision.models.get_model_weights(name):
        if not weights.meta['categories']: continue
        net, t = load(f'{name}@{weights.name}'), weights.transforms()
        assert (list(net.mean), list(net.std), net.crop) == (list(t.mean), list(t.std), t.crop_size[0]) and len(net.categories) == 1000
        assert getattr(net, 'filter', 'bilinear') == t.interpolation.value


class Pooled(nn.Module):
    "Says what transformers' classifiers say, and may be called as timm's."
    config = SimpleNamespace(id2label={0: 'red', 1: 'green', 2: 'blue'})
    def __init__(self, wrap): super().__init__(); self.wrap = wrap
    def forward(self, x): return self.wrap(x.mean((2, 3)))

PROCESSOR = dict(image_mean=[.5]*3, image_std=[.25]*3, size=dict(height=64, width=64), resample=2)

@pytest.fixture
def libraries(monkeypatch):
    "Modules that stand in for timm and transformers; neither knows the name 'unknown'."
    def known(name, made):
        if name == 'unknown': raise RuntimeError('Unknown model')
        return made
    auto = lambda make: SimpleNamespace(from_pretrained=lambda name: known(name, make()))
    data = dict(input_size=(3, 64, 64), interpolation='bilinear', mean=(.5,)*3, std=(.25,)*3, crop_pct=1., crop_mode='center')
    monkeypatch.setitem(sys.modules, 'timm', SimpleNamespace(__version__='1',
                        data=SimpleNamespace(resolve_model_data_config=lambda module: data),
                        create_model=lambda name, pretrained: known(name, Pooled(lambda z: z))))
    monkeypatch.setitem(sys.modules, 'transformers', SimpleNamespace(__version__='1',
                        AutoModelForImageClassification=auto(lambda: Pooled(lambda z: SimpleNamespace(logits=z))),
                        AutoImageProcessor=auto(lambda: SimpleNamespace(to_dict=lambda: PROCESSOR))))

@pytest.mark.parametrize('spec', ['timm:small.a1', 'hf:some/where'])
def test_networks_of_other_libraries(spec, libraries, tmp_path):
    net, x = load(spec, score='probability'), torch.rand(2, 3, 64, 64)
    assert net.name == spec and (net.mean, net.std, net.resize, net.crop) == ((.5,)*3, (.25,)*3, 64, 64) and spec in net.source
    assert net.category(1) == ('green' if spec.startswith('hf') else 'class 1') and torch.equal(predict(net.module, x), x.mean((2, 3)))
    assert load(spec).fingerprint() == net.fingerprint()
    assert main(['explain', 'embedded', '--model', spec, '--steps', '2', '--methods', 'ig', '--out', str(tmp_path/'a.png')]) == 0

@pytest.mark.parametrize('library', ['timm', 'hf'])
def test_what_other_libraries_do_not_have(library, libraries, monkeypatch):
    with pytest.raises(InputError, match=f'{library}:unknown cannot be had .RuntimeError: Unknown model.; check the name'):
        load(f'{library}:unknown')
    for name in ('timm', 'transformers'): monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"say pip install 'idgi_repro\[{library}\]'"): load(f'{library}:resnet50')


@pytest.mark.parametrize('content', ['garbage', 'truncated', 'of another network'])
def test_a_damaged_file(content, hub):
    file = hub/'mobilenet_v2-7ebf99e0.pth'
    torch.save((nn.Linear(2, 2) if content == 'of another network' else torchvision.models.mobilenet_v2()).state_dict(), file)
    if content == 'garbage': file.write_bytes(b'<html>sign in first</html>')
    if content == 'truncated': file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(InputError, match='damaged or not') as e: load('mobilenet_v2')
    assert str(file) in str(e.value)


def test_a_download_with_the_wrong_hash(hub, monkeypatch):
    def fetch(url, dst, *args, **kwargs): raise RuntimeError('invalid hash value (expected "7ebf99e0", got "0")')
    monkeypatch.setattr('torch.hub.download_url_to_file', fetch)
    with pytest.raises(InputError, match='invalid hash'): load('mobilenet_v2')


@pytest.mark.parametrize('spec, said', [
    ('resnet51',               'known are mini_mobilenet'),
    ('',                       'known are'),
    ('mini_resnet@V2',         'unknown network'),
    ('resnet50@V9',            'IMAGENET1K_V2'),
    ('no_such_module:build',   'ModuleNotFoundError'),
    (':build',                 'cannot be imported'),
    ('torchvision.models:no',  "no function 'no'"),
    ('no_such_file.py:build',  'no file'),
    ('os.path:exists',         'TypeError'),
    ('os:getcwd',              'returned str'),
])
def test_names_that_name_nothing(spec, said):
    with pytest.raises(InputError) as e: load(spec)
    assert said in str(e.value)


def test_functions_that_fail(tmp_path):
    file = tmp_path/'mine.py'
    file.write_text('import torch\n'
                    'def raises(): raise KeyError("no weights here")\n'
                    'def pair():   return torch.nn.Identity(), (0, 0, 0)\n'
                    'def black():  return torch.nn.Identity(), (0, 0, 0), (1, 0, 1)\n'
                    'def grey():   return torch.nn.Identity(), (0,), (1,)\n')
    for function, said in dict(raises='no weights here', pair='returned tuple', black='std positive', grey='three numbers').items():
        with pytest.raises(InputError, match=said): load(f'{file}:{function}')
    file.write_text('def broken(:\n')
    with pytest.raises(InputError, match='SyntaxError'): load(f'{file}:broken')


def test_a_module_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path/'my_own_networks.py').write_text('import torch\ndef tiny(): return torch.nn.Flatten()\n')
    monkeypatch.chdir(tmp_path)
    net = load('my_own_networks:tiny', resize=40, crop=32)
    assert (net.resize, net.crop) == (40, 32) and sys.path[-1] == str(tmp_path)


def test_a_whole_network_is_taken_as_it_is(tmp_path):
    (tmp_path/'n.py').write_text('from torch import nn\nfrom idgi_repro.study.models import Network\n'
                                 'def build(): return Network("mine", nn.Flatten(), resize=9, crop=8, categories=["a"])\n')
    net = load(f'{tmp_path/"n.py"}:build')
    assert (net.name, net.crop, net.category(0), net.category(1)) == ('mine', 8, 'a', 'class 1')
    assert load(f'{tmp_path/"n.py"}:build', crop=16).resize == 16
    assert load(f'{tmp_path/"n.py"}:build', resize=4).crop == 4


def test_a_device_that_is_not_there():
    for device in ('cuda:99', 'abacus'):
        with pytest.raises(InputError, match=device): load('mini_resnet', device)


@pytest.mark.parametrize('size', [(300, 200), (200, 300), (50, 40), (192, 192), (1, 500)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'CMYK', '1'])
def test_pixels_of_any_image(size, mode):
    net = Network('n', nn.Identity(), resize=32, crop=32)
    p = net.pixels(Image.new(mode, size))
    assert p.shape == (3, 32, 32) and p.dtype == torch.float32 and 0 <= p.min() and p.max() <= 1 + 1e-6


@realdata
def test_the_real_mobilenet_on_the_real_photographs():
    net = load(f'{REALDATA/"realdata.py"}:mobilenet_v2')
    assert net.mean == (.5, .5, .5) and net.name.endswith(':mobilenet_v2')
    images = open_images(REALDATA/'imagenet-sample')
    assert len(images) == len(images.categories) == 1000 and [i.label for i in images[:3]] == [0, 1, 2]
    table = select(net, images[::20])
    assert .75 < table.correct.mean() <= 1 and .35 < table.confident.mean() < .7


@realdata
def test_a_real_network_by_module_name(monkeypatch):
    monkeypatch.syspath_prepend(REALDATA)
    assert load('realdata:squeezenet1_0').module.num_classes == 1000
    assert load('realdata:cifar_resnet', resize=32, crop=32).crop == 32


# the source of a user's network

MINE = 'import torch\nfrom torch import nn\n{imports}\nclass Net(nn.Module):\n' \
       '    def __init__(self):\n        super().__init__(); self.fc = nn.Linear(12, 3)\n' \
       '        nn.init.constant_(self.fc.weight, .1); nn.init.zeros_(self.fc.bias)\n' \
       '    def forward(self, x): return self.fc(x.flatten(1))*{scale}\n' \
       'def make(): return Net()\ndef other(): return Net()\n'

def mine(file, scale, imports=''):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MINE.format(scale=scale, imports=imports))
    return file

def logit(net): return round(net.module(torch.ones(1, 3, 2, 2))[0, 0].item()/1.2)

def seen(spec):
    "The factor of the logits, and the fingerprint."
    before = len(sys.path)
    net = load(spec, resize=2, crop=2)
    assert len(sys.path) <= before + 1 and len(net.source) == 16
    return logit(net), net.fingerprint()


def test_a_changed_file_is_another_network(tmp_path):
    file = mine(tmp_path/'mine.py', 8)
    first = seen(f'{file}:make')
    assert first == seen(f'{file}:make') and first[0] == 8
    mine(file, 2)                                        # of the same size, within the same second
    second = seen(f'{file}:make')
    assert second[0] == 2 and second[1] != first[1]
    assert seen(f'{mine(file, 8)}:make') == first
    assert seen(f'{file}:other')[1] != first[1], 'another function of the same file may compute something else'


def test_the_fingerprint_does_not_depend_on_where_the_file_lies(tmp_path):
    assert seen(f'{mine(tmp_path/"a"/"mine.py", 8)}:make') == seen(f'{mine(tmp_path/"b"/"mine.py", 8)}:make')


@pytest.mark.parametrize('beside', ['my_factor.py', 'my_parts/my_factor.py'])
def test_a_changed_module_beside_it_is_another_network(beside, tmp_path):
    name = beside[:-3].replace('/', '.')
    file = mine(tmp_path/'mine.py', f'{name}.factor', f'import {name}')
    (tmp_path/beside).parent.mkdir(exist_ok=True)
    (tmp_path/beside).write_text('factor = 8\n')
    first = seen(f'{file}:make')
    (tmp_path/'unrelated.py').write_text('factor = 3\n')
    assert seen(f'{file}:make') == first and first[0] == 8, 'what is not imported is nothing to it'
    (tmp_path/beside).write_text('factor = 2\n')
    second = seen(f'{file}:make')
    assert second[0] == 2 and second[1] != first[1]


def test_what_is_imported_while_it_is_built_counts(tmp_path):
    file = tmp_path/'mine.py'
    file.write_text('def make():\n    import my_late\n    return my_late.make()\n')
    mine(tmp_path/'my_late.py', 8)
    first = seen(f'{file}:make')
    mine(tmp_path/'my_late.py', 2)
    assert (first[0], seen(f'{file}:make')[0]) == (8, 2) and seen(f'{file}:make')[1] != first[1]


def test_modules_of_one_name_in_two_folders(tmp_path):
    for folder, factor in (('a', 8), ('b', 2)):
        mine(tmp_path/folder/'mine.py', 'my_namesake.factor', 'import my_namesake')
        (tmp_path/folder/'my_namesake.py').write_text(f'factor = {factor}\n')
    assert [seen(f'{tmp_path/f}/mine.py:make')[0] for f in 'aba'] == [8, 2, 8]


@pytest.mark.parametrize('spec, file', [('my_dotted:make', 'my_dotted.py'), ('my_package:make', 'my_package/__init__.py'),
                                        ('my_package.nets.mine:make', 'my_package/nets/mine.py')])
def test_a_changed_module_of_ones_own_is_another_network(spec, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine(tmp_path/file, 8)
    (tmp_path/'unrelated.py').write_text('raise Exception\n')
    first = seen(spec)
    assert first == seen(spec)
    mine(tmp_path/file, 2)
    second = seen(spec)
    assert (first[0], second[0]) == (8, 2) and first[1] != second[1]
    assert not list(tmp_path.rglob('__pycache__'))


def test_a_changed_module_of_the_same_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    mine(tmp_path/'my_pack/net.py', 'factor', 'from .parts.factors import factor')
    (tmp_path/'my_pack/parts').mkdir()
    (tmp_path/'my_pack/parts/factors.py').write_text('factor = 8\n')
    (tmp_path/'my_pack/unused.py').write_text('')
    first = seen('my_pack.net:make')
    (tmp_path/'my_pack/unused.py').write_text('x = 1\n')
    assert seen('my_pack.net:make') == first
    (tmp_path/'my_pack/parts/factors.py').write_text('factor = 2\n')
    assert (first[0], seen('my_pack.net:make')[0]) == (8, 2) and seen('my_pack.net:make')[1] != first[1]


def test_a_module_that_was_imported_before(tmp_path, monkeypatch):
    "Python would not read it again."
    monkeypatch.syspath_prepend(tmp_path)
    mine(tmp_path/'my_early.py', 8)
    import my_early
    mine(tmp_path/'my_early.py', 2)
    assert seen('my_early:make')[0] == 2 and my_early.Net()(torch.ones(1, 3, 2, 2))[0, 0].round() == 10


def test_other_modules_of_the_folder_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'my_state.py').write_text('seen = []\n')
    import my_state
    my_state.seen.append(1)
    seen(f'{mine(tmp_path/"mine.py", 8)}:make')
    with pytest.raises(InputError): load(f'{tmp_path/"mine.py"}:none')
    assert sys.modules['my_state'] is my_state and my_state.seen == [1]


def test_a_whole_network_has_a_source_too(tmp_path):
    file = tmp_path/'n.py'
    text = ('from torch import nn\nfrom idgi_repro.study.models import Network\ndef make(): return Network("mine", nn.Flatten(), resize=9, '
            'crop=8){}\n')
    file.write_text(text.format(''))
    first = load(f'{file}:make')
    file.write_text(text.format(' # as before'))
    assert isinstance(first, Network) and first.fingerprint() != load(f'{file}:make').fingerprint()


def test_networks_that_are_no_users_have_no_source():
    assert load('mini_resnet').source == '' and len(load('torchvision.models:resnet18').source) == 16
    assert load('torchvision.models:resnet18').source == load('torchvision.models:resnet18').source
