"What is the caller's stays as it was: images, networks, settings of the process; and what comes back holds nothing."
import pytest, torch
from torch import nn

import idgi_repro as ir
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import evaluating, multiplying, predict, prepare, value_and_gradient
from reference import pictures, smooth

C = torch.tensor([0, 1])
LOOKS = dict(predict=lambda net, x: predict(net, x), gradient=lambda net, x: value_and_gradient(net, x, C)[1],
             small=lambda net, x: value_and_gradient(net, x, C, batch_size=1)[1],
             attribute=lambda net, x: ir.attribute(net, x, C, ir.StraightPath(0.), (4,))['idgi', 4],
             own_baseline=lambda net, x: ir.attribute(net, x, C, ir.StraightPath(x*.5), (4,))['riemann', 4],
             second_order=lambda net, x: ir.attribute(net, x, C, ir.StraightPath(0.), (2,), (ir.second_order,))['second_order', 2],
             integrated=lambda net, x: ir.IntegratedGradients(net).attribute(x, n_steps=4, return_convergence_delta=True)[1],
             guided=lambda net, x: ir.IDGI(ir.GuidedIG(net)).attribute(x, target=C, n_steps=4),
             blurred=lambda net, x: ir.BlurIG(net, max_sigma=2.).attribute(x, target=C, n_steps=4),
             diffid=lambda net, x: ir.diffid(net, x, C, x.detach()).logits,
             insertion=lambda net, x: ir.insertion(net, x, x.detach().sum(1), C, 0*x.detach()).curve)

# ---- images

class First(nn.Module):
    "A network whose first layer is `f`."
    def __init__(self, f): super().__init__(); self.f, self.net = f, smooth()
    def forward(self, x): return self.net(self.f(x))

class Fill(nn.Module):
    def forward(self, x): x[:, :, :2] = 0; return x

INPLACE = dict(relu=nn.ReLU(inplace=True), mul=lambda x: x.mul_(2), sub=lambda x: x.sub_(.5).div_(.2), fill=Fill(),
               clamp=lambda x: x.clamp_(-.5, .5), view=lambda x: x.view(-1).mul_(3).view_as(x),
               dropout=nn.Dropout(.1, inplace=True), hardtanh=nn.Hardtanh(inplace=True))

@pytest.mark.parametrize('look', LOOKS)
@pytest.mark.parametrize('first', INPLACE)
def test_a_network_that_works_in_place_has_a_copy(first, look):
    class Beside(nn.Module):
        def __init__(self): super().__init__(); self.f = INPLACE[first]
        def forward(self, v): return self.f(v.clone())
    x = pictures(2)
    same = x.clone()
    found = LOOKS[look](First(INPLACE[first]), x)
    assert torch.equal(x, same) and torch.equal(found, LOOKS[look](First(Beside()), x))

@pytest.mark.parametrize('make', [lambda: pictures(4)[::2], lambda: pictures(1).expand(2, -1, -1, -1),
                                  lambda: pictures(2).to(memory_format=torch.channels_last),
    lambda: pictures(2).flip(3), lambda: pictures(2).transpose(2, 3), lambda: pictures(2, h=9)[:, :, 1:]],
                         ids=['strided', 'expanded', 'channels last', 'flipped', 'transposed', 'cut'])
@pytest.mark.parametrize('look', ['predict', 'gradient', 'attribute'])
def test_layouts_of_images(make, look):
    x = make()
    same, plain = x.clone(), x.contiguous().clone()
    found = LOOKS[look](First(INPLACE['mul']), x)
    assert torch.equal(x, same) and torch.allclose(found, LOOKS[look](First(INPLACE['mul']), plain), atol=1e-12)

@pytest.mark.parametrize('look', LOOKS)
@pytest.mark.parametrize('grads', [True, False])
def test_results_hold_no_graph(look, grads):
    x = pictures(2).requires_grad_()
    with torch.set_grad_enabled(grads):
        found = LOOKS[look](smooth(), x)
        assert torch.is_grad_enabled() is grads
    assert not found.requires_grad and found.grad_fn is None and x.requires_grad and x.grad is None

def test_images_with_a_history_keep_it_and_give_none():
    w = pictures(2).requires_grad_()
    x = w*2
    a = ir.attribute(smooth(), x, C, ir.StraightPath(w), (4,))
    assert not any(v.requires_grad for v in a.values()) and x.grad_fn is not None
    x.sum().backward()
    assert (w.grad == 2).all()

def test_a_network_in_training_goes_on_training():
    net, x = smooth().train(), pictures(2)
    before = net(x)
    for look in LOOKS.values(): look(net, x)
    net(x).sum().backward()
    assert torch.equal(net(x), before) and all(p.grad is not None for p in net.parameters())

@pytest.mark.parametrize('grads', [True, False])
@pytest.mark.parametrize('look', LOOKS)
def test_the_mode_of_autograd_is_left(look, grads):
    with torch.set_grad_enabled(grads):
        LOOKS[look](smooth(), pictures(2))
        assert torch.is_grad_enabled() is grads and not torch.is_inference_mode_enabled()


# ---- networks with a way of their own

class Own(nn.Module):
    "`smooth` with a dropout, and `train` or `eval` of its own."
    def __init__(self): super().__init__(); self.net, self.drop, self.noisy = smooth(), nn.Dropout(.5), True
    def forward(self, x): return self.drop(self.net(x))

class Silent(Own):
    def train(self, mode=True): super().train(mode)                          # returns None
class Nothing(Own):
    def train(self, mode=True): pass
class Refuses(Own):
    def train(self, mode=True): raise RuntimeError('this network is frozen')
class Unknown(Own):
    def eval(self): raise NotImplementedError
class NoneOfEval(Own):
    def eval(self): self.train(False)
class Half(Own):
    def train(self, mode=True): super().train(mode); raise ValueError('after the switch')
class Stays(Own):
    def train(self, mode=True): super().train(mode); self.drop.train(); return self    # Monte Carlo dropout
class Switch(Own):
    def train(self, mode=True): self.noisy = mode; return super().train(mode)
    def forward(self, x): return super().forward(x) + (torch.rand(()) if self.noisy else 0)
class Merges(Own):
    "As low-rank adapters do: the two ways to compute are one, if it is always said."
    def __init__(self): super().__init__(); self.merged = False
    def train(self, mode=True): self.merged = not mode; return super().train(mode)
    def forward(self, x): assert self.merged is not self.training; return super().forward(x)
class Frozen(Own):
    "Batch norm that always stays in evaluation mode."
    def __init__(self): super().__init__(); self.norm = nn.BatchNorm2d(3).double(); self.train()
    def train(self, mode=True): super().train(mode); self.norm.eval(); return self
    def forward(self, x): return super().forward(self.norm(x))

OWN = [Own, Silent, Nothing, Refuses, Unknown, NoneOfEval, Half, Stays, Switch, Merges, Frozen]
def state(net):
    return [(m.training, m.__dict__.get('noisy'), m.__dict__.get('merged')) for m in net.modules()] + [p.requires_grad
        for p in net.parameters()]

@pytest.mark.parametrize('look', ['predict', 'gradient', 'attribute'])
@pytest.mark.parametrize('inside', [False, True], ids=['itself', 'a layer'])
@pytest.mark.parametrize('kind', OWN)
def test_a_network_with_a_mode_of_its_own_is_quiet_and_restored(kind, inside, look):
    net = nn.Sequential(kind()) if inside else kind()
    before, x = state(net), pictures(2)
    a, b = (LOOKS[look](net, x) for _ in range(2))
    assert torch.equal(a, b) and state(net) == before and before[0][0]

@pytest.mark.parametrize('kind', OWN)
def test_it_is_restored_where_it_fails(kind):
    net = kind()
    before = state(net)
    with pytest.raises(KeyError), evaluating(net): raise KeyError
    with pytest.raises(InputError): predict(net, pictures(2, c=4))
    assert state(net) == before

@pytest.mark.parametrize('what', [nn.Linear(2, 2).state_dict(), 'resnet50', None, 5, [nn.Linear(2, 2)], torch.ones(2)],
                         ids=lambda v: type(v).__name__)
def test_what_is_no_network_is_refused(what):
    with pytest.raises(InputError, match=f'not {type(what).__name__}'): predict(what, pictures(2))


# ---- settings of the process

B = torch.backends
PLACES = [p for p in (B, B.cudnn, B.cuda.matmul, getattr(B.cudnn, 'conv', None), getattr(B.cudnn, 'rnn', None), B.mkldnn,
                      getattr(B.mkldnn, 'matmul', None), getattr(B.mkldnn, 'conv', None))
          if hasattr(p, 'fp32_precision')]

def older():
    said = []
    for f in (torch.get_float32_matmul_precision, lambda: B.cuda.matmul.allow_tf32, lambda: B.cudnn.allow_tf32):
        try: said.append(f())
        except RuntimeError: said.append('mixed')
    return said
def settings(): return older(), [p.fp32_precision for p in PLACES]

@pytest.fixture
def restored():
    (matmul, _, conv), newer = settings()
    yield
    torch.set_float32_matmul_precision(matmul); B.cudnn.allow_tf32 = conv
    for p, v in zip(PLACES, newer): p.fp32_precision = v
    assert settings() == ([matmul, _, conv], newer)

def old(matmul, conv): B.cuda.matmul.allow_tf32, B.cudnn.allow_tf32 = matmul, conv
def new(**how):
    for name, v in how.items():
        dict(all=B, matmul=B.cuda.matmul, conv=getattr(B.cudnn, 'conv', None), rnn=getattr(B.cudnn, 'rnn', None))[name].fp32_precision = v

SETTINGS = {'as it comes': lambda: None, 'highest': lambda: torch.set_float32_matmul_precision('highest'),
            'high': lambda: torch.set_float32_matmul_precision('high'),
    'medium': lambda: torch.set_float32_matmul_precision('medium'), 'old on': lambda: old(True, True), 'old off': lambda: old(False, False),
            'old mixed': lambda: old(True, False),
    'high, then old': lambda: (torch.set_float32_matmul_precision('high'), old(False, True))}
if PLACES:
    SETTINGS |= {'new on': lambda: new(all='tf32'), 'new off': lambda: new(all='ieee'), 'new matmul': lambda: new(matmul='tf32'),
                 'new conv': lambda: new(conv='ieee'),
                 'new rnn': lambda: new(rnn='ieee'), 'high, then new': lambda: (torch.set_float32_matmul_precision('high'),
        new(conv='ieee'))}

class Sees(nn.Module):
    "Notes how it is to multiply, forward and backward."
    def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        Sees.forward_saw = settings()
        if x.requires_grad: x.register_hook(lambda g: setattr(Sees, 'backward_saw', settings()))
        return self.conv(x).mean((2, 3)) if x.sum() > -1e9 else x          # cannot be traced

def as_asked(seen, fast, plain):
    "Whether all settings say so; where the older ones could not be read beforehand, the newer."
    must = ['high', True, True] if fast else ['highest', False, False]
    newer = {v for p, v in zip(PLACES, seen[1]) if p in (B.cuda.matmul, getattr(B.cudnn, 'conv', 0), getattr(B.cudnn, 'rnn', 0))}
    return (seen[0] == must or not plain) and newer <= {'tf32' if fast else 'ieee'}

@pytest.mark.parametrize('precision', ['float32', 'tf32', 'bf16'])
@pytest.mark.parametrize('setting', SETTINGS)
def test_how_float32_is_multiplied_is_as_before(setting, precision, restored):
    SETTINGS[setting]()
    before, x = settings(), torch.rand(2, 3, 8, 8)
    asked = lambda seen: as_asked(seen, precision == 'tf32', 'mixed' not in before[0])
    fast = prepare(Sees(), x, precision=precision, tolerance=1.)
    assert settings() == before
    for look in (LOOKS[n] for n in ('predict', 'gradient', 'attribute')):
        Sees.forward_saw = None
        look(fast, x)
        assert asked(Sees.forward_saw) and settings() == before
    assert asked(Sees.backward_saw)
    with pytest.raises(KeyError), multiplying(precision): raise KeyError
    assert settings() == before

@pytest.mark.parametrize('fails', [InputError, RuntimeError, KeyboardInterrupt])
def test_it_is_as_before_where_the_network_fails(fails, restored):
    before, x = settings(), torch.rand(2, 3, 8, 8)
    fast = prepare(Sees(), x, precision='tf32', tolerance=1.)
    fast.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(fails('stop')))
    with pytest.raises(fails): predict(fast, x)
    assert settings() == before

def test_a_network_as_it_is_multiplies_as_the_process_does(restored):
    torch.set_float32_matmul_precision('high'); B.cudnn.allow_tf32 = False
    predict(Sees(), torch.rand(2, 3, 8, 8))
    assert Sees.forward_saw[0] == ['high', True, False]

def test_the_latest_block_decides_and_the_last_restores(restored):
    before, blocks = settings(), [multiplying(p) for p in ('tf32', 'float32', 'tf32')]
    for b, must in zip(blocks, ('high', 'highest', 'high')):
        b.__enter__()
        assert torch.get_float32_matmul_precision() == must
    for i, must in ((0, 'high'), (2, 'highest')):                 # as threads end, in no order
        blocks[i].__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == must
    blocks[1].__exit__(None, None, None)
    assert settings() == before
