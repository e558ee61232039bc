"Networks as people have them, from the command line: a picture, or one line that says what to do."
import sys

import matplotlib.pyplot as plt, pytest, torch
from torch import nn

from idgi_repro.cli import main
from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.records import Paper
from idgi_repro.study.models import Network, load, usable
from idgi_repro.study.shard import Shard, run

FILE = '''
import dataclasses, functools, sys, threading
import torch
from torch import nn
from idgi_repro.study.models import Network

torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self, ending=lambda z: z, classes=3, kind=torch.float32, size=None):
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3*(size or 8)**2//(16 if size else 1), classes)).to(kind)
        self.fixed, self.ending = size, ending
    def forward(self, x): return self.ending(self.body(x))

@dataclasses.dataclass
class Out:
    logits: torch.Tensor
    aux: object = None

class Bare(nn.Module):
    def forward(self, x): return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], 1)

class Stubborn(Net):
    def train(self, mode=True): super().train(mode)

class Locked(Net):
    def __init__(self): super().__init__(); self.lock = threading.Lock()

class Stateful(Net):
    def __init__(self): super().__init__(); self.register_buffer('sparse', torch.eye(3).to_sparse())
    def get_extra_state(self): return dict(names={'b', 'a'}, scale=torch.ones(2), kind=torch.float16)
    def set_extra_state(self, state): pass

class Says(Net):
    def __init__(self, **said):
        super().__init__(size=48)
        for k, v in said.items(): setattr(self, k, v)

def small(module): return Network('small', module, resize=32, crop=32)
net = Net()

def plain():      return small(Net())
def logits():     return small(Net(Out))
def mapping():    return small(Net(lambda z: dict(loss=0, logits=z)))
def pair():       return small(Net(lambda z: (z, z*2)))
def columns():    return small(Net(lambda z: z[..., None, None]))
def bare():       return small(Bare())
def function():   return small(lambda x: net(x)*2)
def partial():    return small(functools.partial(lambda scale, x: net(x)*scale, 2))
def half():       return small(Net(kind=torch.float16))
def bfloat():     return small(Net(kind=torch.bfloat16))
def double():     return small(Net(kind=torch.float64))
def scripted():   return small(torch.jit.trace(Net().eval(), torch.rand(2, 3, 32, 32)))
def frozen():     return small(torch.jit.freeze(torch.jit.trace(Net().eval(), torch.rand(2, 3, 32, 32))))
def exported():
    return small(torch.export.export(Net().eval(), (torch.rand(3, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim.AUTO},)))
def stubborn():   return small(Stubborn())
def locked():     return small(Locked())
def stateful():   return small(Stateful())
def inplace():    return small(nn.Sequential(nn.ReLU(inplace=True), Net()))
def made():
    with torch.inference_mode(): return small(Net())
def quantised():  return small(torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}))
def softmax():    return small(Net(lambda z: (9*z).softmax(1)))
def one():        return small(Net(classes=1))
def certain():    return small(Net(torch.sigmoid, classes=1))
def timm():       return Says(pretrained_cfg=dict(input_size=(3, 48, 48), crop_pct=1., mean=(.5, .5, .5), std=(.5, .5, .5)))
def older():      return Says(default_cfg=dict(input_size=(3, 48, 48)))
def hugging():    return Says(config=type('Config', (), dict(image_size=48))())
def listed():     return Says(config=type('Config', (), dict(image_size=[48, 48]))())
def vit():        return Says(image_size=48)
def within():     return nn.Sequential(Says(image_size=48))
def mute():       return Net(size=64)
def nothing():    return None
def a_class():    return Net
def weights():    return Net().state_dict()
def text():       return small(Net(str))
def flat():       return small(Net(lambda z: z.sum()))
def whole():      return small(Net(lambda z: z.argmax(1, keepdim=True)))
def broken():     return small(Net(lambda z: z.no_such_thing))
def nan():        return small(Net(lambda z: z/0*0))
'''


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    (file := tmp_path_factory.mktemp('own')/'odd_networks.py').write_text(FILE)
    return file


@pytest.fixture(scope='module', autouse=True)
def brief():
    "A paper of one method, so that a picture takes no time."
    few = Paper("few", "Few", PAPER.methods[:2], PAPER.metrics)
    with pytest.MonkeyPatch.context() as m:
        m.setattr('idgi_repro.report.explain.load_paper', lambda name: few)
        yield


def explained(capsys, tmp_path, spec, *argv):
    "What is said, and whether there is a picture."
    status = main(['explain', 'embedded', '--model', str(spec), '--steps', '2', '--out', str(tmp_path/'maps.svg'), '--device',
                   'cpu', *argv])
    plt.close('all')
    said = capsys.readouterr().err
    assert 'Traceback' not in said and (status == 0) == (tmp_path/'maps.svg').exists()
    return status, said


PICTURES = ['plain', 'logits', 'mapping', 'pair', 'columns', 'bare', 'function', 'partial', 'half', 'bfloat', 'double',
            'scripted', 'frozen',
            'exported', 'stubborn', 'locked', 'stateful', 'inplace', 'timm', 'older', 'hugging', 'listed', 'vit', 'within', 'made']

@pytest.mark.parametrize('name', PICTURES)
def test_a_picture(name, file, capsys, tmp_path):
    status, said = explained(capsys, tmp_path, f'{file}:{name}')
    assert status == 0, said


REFUSED = dict(quantised='no gradient', softmax='say --score output', one='say --score sigmoid',
               certain='say --score output', mute='say --size 64',
               nothing='returned NoneType', a_class='returned the class Net', weights='returned OrderedDict', text='must return logits',
               flat='must return logits', whole='must return logits', broken='cannot be run on images', nan='NaN or infinity')

@pytest.mark.parametrize('name', REFUSED)
def test_a_line(name, file, capsys, tmp_path):
    status, said = explained(capsys, tmp_path, f'{file}:{name}')
    assert status == 2 and 'idgi-repro: ' in said.splitlines()[-1] and REFUSED[name] in said, said


SCORES = [('plain', 'logit'), ('plain', 'contrast'), ('plain', 'sigmoid'), ('softmax', 'output'), ('one', 'sigmoid'), ('one', 'logit'),
          ('one', 'contrast'), ('certain', 'output'), ('half', 'logit'), ('mute', 'probability')]

@pytest.mark.parametrize('name, score', SCORES)
def test_the_score_that_fits(name, score, file, capsys, tmp_path):
    status, said = explained(capsys, tmp_path, f'{file}:{name}', '--score', score, *['--size', '64']*(name == 'mute'))
    assert status == 0, said

@pytest.mark.parametrize('name, score, words', [
    ('plain', 'output', 'does not return probabilities'), ('plain', 'beauty', 'must be one of'), ('softmax', 'logit', 'say --score output'),
    ('softmax', 'contrast', 'say --score output'), ('one', 'output', 'say --score sigmoid'), ('one', 'probability', 'say --score sigmoid')])
def test_the_score_that_does_not(name, score, words, file, capsys, tmp_path):
    status, said = explained(capsys, tmp_path, f'{file}:{name}', '--score', score)
    assert status == 2 and words in said, said


@pytest.mark.parametrize('name, score, sure', [('softmax', 'output', lambda z: z), ('certain', 'output', lambda z: torch.cat([1-z, z], 1)),
                                               ('one', 'sigmoid', lambda z: torch.cat([(-z).sigmoid(), z.sigmoid()], 1))])
def test_the_probability_is_what_the_network_says(name, score, sure, file):
    x = torch.rand(4, 3, 32, 32)
    net = load(f'{file}:{name}', score=score)
    ours = net.module(x).softmax(1)
    with torch.no_grad(): assert torch.allclose(ours, sure(net.module.net(x)), atol=1e-6)


# a study

@pytest.mark.parametrize('name, score', [('bare', 'probability'), ('function', 'probability'), ('half', 'probability'),
                                         ('stateful', 'logit'),
                                         ('logits', 'contrast'), ('softmax', 'output'), ('one', 'sigmoid'), ('columns', 'probability')])
def test_a_study(name, score, file, tmp_path):
    photos = tmp_path/'photos'
    photos.mkdir()
    from idgi_repro.study.images import Embedded
    Embedded(1)[0].open().save(photos/'a.png')
    shard = Shard(network=f'{file}:{name}', data=str(photos), images=1, stop=1, methods=('ig', 'ig+idgi'), metrics=('insertion', 'delta'),
                  steps=(2,), out=str(tmp_path/'out'), score=score)
    assert run(shard, PAPER) == run(shard, PAPER)

@pytest.mark.parametrize('name, score, words', [('one', 'probability', 'score sigmoid'), ('softmax', 'probability', 'score output'),
                                                ('plain', 'sigmoid', 'several outputs'), ('mute', 'probability', '--size 64')])
def test_a_study_refuses(name, score, words, file, tmp_path):
    with pytest.raises(InputError, match=words):
        run(Shard(network=f'{file}:{name}', images=1, stop=1, out=str(tmp_path), score=score), PAPER)


# a device

@pytest.mark.parametrize('device', ['meta', 'cuda:99', 'abacus', '', 'cpu:x', 'xla', 'hpu', 'vulkan', 'mtia', 'privateuseone'])
def test_devices_without_numbers(device, capsys, tmp_path):
    with pytest.raises(InputError, match='cannot be used'): usable(device)
    if not device: return
    for argv in (['explain', 'embedded', '--out', str(tmp_path/'a.png')], ['study', '--images', '1', '--out', str(tmp_path/'results')]):
        assert main([*argv, '--device', device]) == 2
        assert 'cannot be used' in (said := capsys.readouterr().err) and 'say cpu' in said


# a fingerprint

class Extra(nn.Linear):
    def get_extra_state(self): return self.kept
    def set_extra_state(self, state): pass

def state(**kinds):
    module = Extra(2, 2) if 'extra' in kinds else nn.Linear(2, 2)
    nn.init.ones_(module.weight), nn.init.zeros_(module.bias)
    for k, v in kinds.items():
        if k == 'extra': module.__dict__['kept'] = v
        elif k == 'plain': module.scale = v
        else: module.register_buffer(k, v)
    return Network('n', module, source='of a user' if 'plain' in kinds else '').fingerprint()

one = torch.ones(2, 2)
STATES = [dict(), dict(b=one.to_sparse()), dict(b=2*one.to_sparse()), dict(b=one.to_sparse_csr()*3),
          dict(b=torch.quantize_per_tensor(4*one, .5, 0, torch.qint8)),
          dict(b=one.bfloat16()*5), dict(b=one.cfloat()*6), dict(b=one.bool()), dict(b=one[:0]), dict(b=one[0, 0]*7), dict(extra=dict(a=1)),
          dict(extra=dict(a=2)), dict(extra={'a', 'b'}), dict(extra=[one]), dict(extra=[2*one]), dict(extra=None),
          dict(extra=torch.float16), dict(plain=2.), dict(plain=3.), dict(plain=one), dict(plain=2*one), dict(plain=[1, 2])]

def test_any_state_has_a_fingerprint_of_its_own():
    assert [state(**s) for s in STATES] == [state(**s) for s in STATES] and len({state(**s) for s in STATES}) == len(STATES)


# modules beside a network

LATE = {
    'when it is imported': 'import {m}\nclass Net(nn.Flatten):\n    def forward(self, x): return super().forward(x)[:, :3]*{m}.factor\n',
    'when it is made': 'class Net(nn.Flatten):\n    def __init__(self):\n        super().__init__()\n        import {m}\n        self.m = '
                       '{m}\n'
                       '    def forward(self, x): return super().forward(x)[:, :3]*self.m.factor\n',
    'when it runs': 'class Net(nn.Flatten):\n    def forward(self, x):\n        from {m} import factor\n        return '
                    'super().forward(x)[:, :3]*factor\n',
    'through another': 'class Net(nn.Flatten):\n    def forward(self, x):\n        import {m}_way\n        return super().forward(x)[:, '
                       ':3]*{m}_way.get()\n',
    'from another folder': 'import sys; sys.path.append(FOLDER)\nclass Net(nn.Flatten):\n    def forward(self, x):\n        import {m}\n'
                           '        return super().forward(x)[:, :3]*{m}.factor\n'}

@pytest.mark.parametrize('when', LATE)
def test_a_module_beside_it_is_found_and_counts(when, tmp_path):
    name, elsewhere = f'beside_{len(when)}_{len(LATE[when])}', tmp_path/'elsewhere'
    (elsewhere if 'folder' in when else tmp_path).mkdir(exist_ok=True)
    beside = (elsewhere if 'folder' in when else tmp_path)/f'{name}.py'
    (tmp_path/f'{name}_way.py').write_text(f'def get():\n    import {name}\n    return {name}.factor\n')
    (tmp_path/'net.py').write_text(f'from torch import nn\nFOLDER = {str(elsewhere)!r}\n' + LATE[when].format(m=name)
                                   + 'def make(): return Net()\n')
    found = []
    for factor in (8, 2):
        beside.write_text(f'factor = {factor}\n')
        net = load(f'{tmp_path}/net.py:make', resize=2, crop=2)
        found.append((net.module(torch.ones(1, 3, 2, 2))[0, 0].item(), net.fingerprint()))
    assert [f for f, _ in found] == [8, 2] and found[0][1] != found[1][1]
    if 'folder' in when: assert str(elsewhere) in sys.path
