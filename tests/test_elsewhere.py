"A study on a graphics card, played by the CPU: what is moved there does not meet what was left here, and is no array."
from dataclasses import replace

import pytest, torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from idgi_repro.method.gradients import prepare
from idgi_repro.papers.loading import load_paper
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.scene import views
from idgi_repro.study.shard import Shard, network_of, rows_of

CUDA = torch.device('cuda', 0)
INDEXED = {'__getitem__', '__setitem__'}    # what is there is indexed by what is here
LAYERS = {'conv2d', 'batch_norm', 'linear'} # a network is taken to be where its images are

class Far(Tensor):
    "A tensor that is said to be on the first card."

def far(v): return v.as_subclass(Far) if isinstance(v, Tensor) else type(v)(map(far, v)) if type(v) in (list, tuple) else v
def is_far(place): return isinstance(place, Far) or isinstance(place, (str, torch.device)) and torch.device(place).type == 'cuda'

def tensors(v):
    if isinstance(v, Tensor): yield v
    elif isinstance(v, (list, tuple, dict)):
        for w in v.values() if isinstance(v, dict) else v: yield from tensors(w)

class Elsewhere(TorchFunctionMode):
    def moved(self, f, v, *how, **named):
        places = [p for p in (*how, *named.values()) if isinstance(p, (str, torch.device, Tensor))]
        here = lambda p: p.dtype if isinstance(p, Tensor) else 'cpu' if is_far(p) else p
        out = f(v, *map(here, how), **{k: here(p) for k, p in named.items()})
        return far(out) if is_far(places[0] if places else v) else out.as_subclass(Tensor)

    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs, name, first = dict(kwargs or {}), f.__name__, args[0] if args else None
        if f == Tensor.device.__get__: return CUDA if is_far(first) else torch.device('cpu')
        if name == 'pin_memory': return first
        if name == 'cpu': return first.as_subclass(Tensor)
        if name == 'to': return self.moved(f, *args, **kwargs)
        if name in ('numpy', '__array__') and is_far(first): raise TypeError('a tensor of the card is no array')
        given = [*tensors(args), *tensors(kwargs)]
        there, asked = any(map(is_far, given)), is_far(kwargs.get('device'))
        if asked: kwargs['device'] = 'cpu'
        left = [tuple(t.shape) for t in given if t.ndim and not isinstance(t, (Far, nn.Parameter))]
        if there and left and name not in INDEXED | LAYERS: raise RuntimeError(f'{name}: {left} is not on the card')
        if there and name in INDEXED and not is_far(first): raise RuntimeError(f'{name}: indices of the card for {left}')
        out = f(*args, **kwargs)
        return far(out) if asked or there else out

def rows(paper, protocol, device, size=None, metrics=()):
    net, data, p = network_of('mini_resnet', Shard(size=size)), open_images('embedded'), load_paper(paper)
    asked = dict(paper=paper, data='embedded', protocol=protocol, images=1, stop=1, steps=(4,), metrics=metrics)
    seen = views(net, [data[0]], device)
    fast = replace(net, module=prepare(net.module, net.normalize(views(net, [data[0], data[1]]).pixels)))
    about = [dict(name='0', label=0, target=0, prob=.9, confident=True, seed=0)]
    return rows_of((fast, net), seen, about, Shard(**asked).of(p), p, batch_size=32)

def test_what_was_left_here_is_found():
    with Elsewhere():
        x = torch.ones(2, device='cuda')
        assert x.device == CUDA and (x + 1).device == CUDA and x.cpu().device.type == 'cpu'
        for wrong in (lambda: x + torch.ones(2), lambda: torch.ones(2)[x.long()], lambda: x.numpy()):
            with pytest.raises((RuntimeError, TypeError), match='card'): wrong()

# the curves of SIC and AIC, which need larger images, are the first paper's as well
FEWER = tuple(m.name for m in load_paper('controls').metrics if m.name[:3] not in ('sic', 'aic'))

STUDIES = dict(idgi=dict(paper='idgi', protocol='published'),
               controls=dict(paper='controls', protocol='corrected', size=96, metrics=FEWER))

@pytest.mark.parametrize('how', STUDIES.values(), ids=list(STUDIES))
def test_a_study_runs_there(how):
    here = rows(device='cpu', **how)
    with Elsewhere(): there = rows(device='cuda', **how)
    assert len(here) == len(there) and all(a['insertion'] == pytest.approx(b['insertion'], abs=1e-6) for a, b in zip(here, there))
