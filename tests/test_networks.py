"Networks as people have them: what they return, what they are, and in which precision."
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import SimpleNamespace

import pytest, torch
from torch import Tensor, nn

import idgi_repro as ir
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import dtype_and_device, in_double, predict, prepare, probability, sigmoid, value_and_gradient
from reference import pictures, smooth

C = torch.tensor([0, 1, 2])
def both(net, x, target=C, **how): return predict(net, x), *value_and_gradient(net, x, target, **how)
def agree(found, must, **how): return all(a.dtype == b.dtype and torch.allclose(a, b, **how) for a, b in zip(found, must, strict=True))

# ---- what they return

class Says(nn.Module):
    "`smooth`, and its logits put into something."
    def __init__(self, wrap): super().__init__(); self.net, self.wrap = smooth(), wrap
    def forward(self, x): return self.wrap(self.net(x))

@dataclass
class Output:
    logits: Tensor
    loss: Tensor|None = None
class ModelOutput(OrderedDict):
    "As Hugging Face has it."
    def __getattr__(self, name):
        try: return self[name]
        except KeyError: raise AttributeError(name) from None
class Lazy:
    def __init__(self, z): self.z = z
    @property
    def logits(self): return self.z
Inception, Two = namedtuple('InceptionOutputs', 'logits aux_logits'), namedtuple('Two', 'first second')

RETURNED = {'tensor': lambda z: z, 'object': lambda z: SimpleNamespace(logits=z), 'dataclass': Output,
            'dataclass with more': lambda z: Output(z, z.sum()), 'property': Lazy,
    'Hugging Face': lambda z: ModelOutput(loss=None, logits=z, hidden_states=(z, z)), 'dict': lambda z: {'logits': z},
            'dict with more': lambda z: {'features': z*2, 'logits': z},
    'user dict': lambda z: UserDict(logits=z), 'tuple': lambda z: (z,), 'tuple with more': lambda z: (z, z*2), 'list': lambda z: [z, None],
            'tuple of a dict': lambda z: ({'logits': z}, 1),
    'Inception': lambda z: Inception(z, z*2), 'Inception without': lambda z: Inception(z, None), 'named': lambda z: Two(z, z*2),
            'dict of a tuple': lambda z: {'logits': (z, z)},
    '(B, K, 1, 1)': lambda z: z[:, :, None, None], '(B, K, 1)': lambda z: z[:, :, None],
            '(B, K, 1, 1, 1)': lambda z: z[:, :, None, None, None],
    'dict of (B, K, 1, 1)': lambda z: {'logits': z[..., None, None]}, 'squeezed': lambda z: z.squeeze(),
            'a view': lambda z: z.T.contiguous().T}

@pytest.mark.parametrize('size', [1, 2, 64])
@pytest.mark.parametrize('how', RETURNED)
def test_logits_are_found(how, size):
    x, net = pictures(3), Says(RETURNED[how])
    assert agree((predict(net, x, size), *value_and_gradient(net, x, C, batch_size=size)), both(smooth(), x), atol=1e-12)

@pytest.mark.parametrize('explain', [lambda n, x: ir.attribute(n, x, C, ir.StraightPath(), (4,))['idgi', 4], lambda n,
                                     x: ir.attribute(n, x, C, ir.StraightPath(), (2,), (ir.second_order,))['second_order', 2],
    lambda n, x: ir.IDGI(ir.GuidedIG(n)).attribute(x, n_steps=4), lambda n, x: ir.insertion(n, x, x.sum(1), C, 0*x).curve],
                         ids=['IG', 'second order', 'GuidedIG', 'insertion'])
@pytest.mark.parametrize('how', ['dataclass', 'Hugging Face', 'tuple with more', 'Inception', '(B, K, 1, 1)'])
def test_and_explained(how, explain): assert torch.equal(explain(Says(RETURNED[how]), pictures(3)), explain(smooth(), pictures(3)))

ONE = {'(B,)': lambda z: z[:, 0], 'squeezed': lambda z: z[:, :1].squeeze(), '(B, 1, 1, 1)': lambda z: z[:, :1, None, None],
       'object of (B,)': lambda z: Output(z[:, 0]), '(B, 1)': lambda z: z[:, :1]}
@pytest.mark.parametrize('size', [1, 2, 64])
@pytest.mark.parametrize('how', ONE)
def test_one_output_has_many_shapes(how, size):
    x = pictures(3)
    z, f, g = predict(Says(ONE[how]), x, size), *value_and_gradient(Says(ONE[how]), x, 0*C, sigmoid, size)
    assert z.shape == (3, 1) and agree((f, g), value_and_gradient(smooth(), x, 0*C, sigmoid))

class Nested:
    "Is its own logits."
    @property
    def logits(self): return self
REFUSED = {'None': (lambda z: None, 'NoneType'), 'text': (lambda z: 'cat', 'str'), 'array': (lambda z: z.detach().numpy(), 'ndarray'),
           'empty': (lambda z: (), 'tuple'), 'no dict of logits': (lambda z: {'out': z, 'aux': z}, 'dict of out, aux'),
    'HF without': (lambda z: ModelOutput(last_hidden_state=z), 'ModelOutput of last_hidden_state'),
           'logits of None': (lambda z: Output(None), 'Output'), 'endless': (lambda z: Nested(), 'Nested'),
           'loss first': (lambda z: (1., z), 'tuple'),
    'number': (lambda z: 1., 'float'), 'mean': (lambda z: z.mean(), r'\(\)'), 'over the batch': (lambda z: z.mean(0), r'\(5,\)'),
           'short': (lambda z: z[:2], r'\(2, 5\)'), 'maps': (lambda z: z[:, :, None, None].expand(-1, -1, 2, 2), r'\(3, 5, 2, 2\)'),
    'sequence': (lambda z: z[:, None], r'\(3, 1, 5\)'), 'transposed': (lambda z: z.T, r'\(5, 3\)'),
           'classes': (lambda z: z.argmax(1), '.3,. of torch.int64'), 'one-hot': (lambda z: z > 0, '.3, 5. of torch.bool'),
           'complex': (lambda z: z*1j, '.3, 5. of torch.complex'), 'no classes': (lambda z: z[:, :0], r'\(3, 0\)')}
@pytest.mark.parametrize('how', REFUSED)
def test_what_leaves_doubt_is_refused(how):
    wrap, said = REFUSED[how]
    for look in (lambda: predict(Says(wrap), pictures(3)), lambda: value_and_gradient(Says(wrap), pictures(3), C),
                 lambda: ir.IntegratedGradients(Says(wrap)).attribute(pictures(3), target=0, n_steps=2, internal_batch_size=3)):
        with pytest.raises(InputError, match=f'logits of shape .3, classes.*returned {said}'): look()


# ---- what they are

def single(): return smooth().float().eval()
def script(net): return torch.jit.script(net)
def export(net, x=None):
    n = torch.export.Dim('n', min=1, max=64)
    return torch.export.export(net, (torch.rand(4, 3, 8, 8),), dynamic_shapes=({0: n},)).module()

@pytest.fixture(scope='module', autouse=True)
def compiler(): export(single()) # the first export loads PyTorch's compiler, which is no test's time

class Bare(nn.Module):
    "No parameters at all."
    def forward(self, x): return x.mean((2, 3))*torch.arange(1., 4., dtype=x.dtype)
class Locked(nn.Module):
    "Cannot be copied."
    def __init__(self): super().__init__(); self.net, self.lock = single(), Lock()
    def forward(self, x):
        with self.lock: return self.net(x)
class Plain:
    "A callable object that is no module."
    def __init__(self): self.net = single()
    def __call__(self, x): return self.net(x)
class Equal(nn.Module):
    "Equal to whatever it is compared with."
    def __init__(self): super().__init__(); self.net = single()
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def forward(self, x): return self.net(x)
class Buffers(nn.Module):
    def __init__(self):
        super().__init__(); self.register_buffer('w', torch.ones(3, 5)); self.register_buffer('n', torch.ones(2, dtype=torch.long))
    def forward(self, x): return x.mean((2, 3)) @ self.w
def function(x, net=single()): return net(x)

def frozen_weights(net):
    net.requires_grad_(False); return net
def made_in_inference():
    with torch.inference_mode(): return single()

KINDS = {'module': single, 'training': lambda: single().train(), 'function': lambda: function, 'lambda': lambda: (lambda x: function(x)),
         'partial': lambda: partial(function, net=single()), 'bound method': lambda: Plain().__call__,
    'object': Plain, 'no parameters': Bare, 'buffers': Buffers, 'scripted': lambda: script(single()),
         'scripted in training': lambda: script(single().train()), 'traced': lambda: torch.jit.trace(single(), torch.rand(2, 3, 8, 8)),
    'frozen script': lambda: torch.jit.freeze(script(single())), 'exported': lambda: export(single()),
         'exported in training': lambda: export(single().train()), 'frozen weights': lambda: frozen_weights(single()),
    'locked': Locked, 'equal': Equal, 'symbolic': lambda: torch.fx.symbolic_trace(single()),
         'in parallel': lambda: nn.DataParallel(single()),
         'weight norm': lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), single()),
    'script of a function': lambda: torch.jit.script(scriptable)}
def scriptable(x: Tensor) -> Tensor: return x.mean((2, 3))

@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_network_is_explained_and_left_as_it_was(kind):
    net, x = KINDS[kind](), pictures(3).float()
    state = lambda: [getattr(m, 'training', None) for m in net.modules()] + [p.requires_grad for p in net.parameters()] if isinstance(net,
        nn.Module) else None
    before = state()
    z, f, g = both(net, x)
    v = x.clone().requires_grad_()
    with torch.enable_grad(): must = probability(net(v), C)
    assert torch.allclose(z, net(x), atol=1e-5) and torch.allclose(f, must, atol=1e-5)
    assert torch.allclose(g, torch.autograd.grad(must.sum(), v)[0], atol=1e-5) and g.abs().sum() > 0
    a, delta = ir.IntegratedGradients(net).attribute(x, n_steps=64, return_convergence_delta=True)
    assert (delta.abs() < .1*a.abs().sum((1, 2, 3)) + 1e-4).all() and state() == before

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_network_is_prepared_or_left(kind):
    net, x = KINDS[kind](), pictures(3).float()
    fast = prepare(net, x)
    assert agree(both(fast, x), both(net, x), atol=1e-4)

@pytest.mark.parametrize('kind,says', [('locked', 'cannot be made.*lock'), ('refuses', 'cannot be made.*no copies'),
                                       ('breaks', 'cannot be made.*broken')])
def test_what_cannot_be_copied_is_used_as_it_is(kind, says):
    class Refuses(Locked):
        def __deepcopy__(self, memo): raise RuntimeError('no copies')
    class Breaks(Bare):
        copied = False
        def __deepcopy__(self, memo): new = Breaks(); new.copied = True; return new
        def forward(self, x):
            if self.copied: raise RuntimeError('broken')
            return super().forward(x) if x.sum() > -1e9 else x
    net, x = dict(locked=Locked, refuses=Refuses, breaks=Breaks)[kind](), pictures(2).float()
    with pytest.warns(UserWarning, match=f'used as it is, because its prepared copy {says}'): assert prepare(net, x) is net

class Head(nn.Module):
    def __init__(self, head): super().__init__(); self.net, self.head = single(), head
    def forward(self, x): return self.head(self.net(x))
def inference(z):
    with torch.inference_mode(): return z*2
WITHOUT = {'detached': lambda: Head(Tensor.detach), 'without grad': lambda: torch.no_grad()(function),
           'in inference mode': lambda: torch.inference_mode()(function), 'partly in inference mode': lambda: Head(inference),
    'rounded by NumPy': lambda: Head(lambda z: torch.from_numpy(z.detach().numpy().round())),
           'constant': lambda: (lambda x: torch.ones(len(x), 3)),
           'of weights only': lambda: (lambda x, w=nn.Parameter(torch.ones(3)): w.expand(len(x), 3)),
    'one-hot': lambda: Head(lambda z: nn.functional.one_hot(z.argmax(1), 5).float()), 'quantised': lambda: quantised(single()),
           'quantised head': lambda: Head(quantised(nn.Sequential(nn.Linear(5, 5))))}
def quantised(net): return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', WITHOUT)
def test_a_network_without_a_gradient_is_refused_and_predicts(kind):
    net, x = WITHOUT[kind](), pictures(3).float()
    assert predict(net, x).shape[0] == 3 and not predict(net, x).is_inference()
    for look in (lambda: value_and_gradient(net, x, C), lambda: ir.IntegratedGradients(net).attribute(x, n_steps=2),
                 lambda: ir.IDGI(ir.GuidedIG(net)).attribute(x, target=0, n_steps=2)):
        with pytest.raises(InputError, match='no gradient'): look()

def test_a_network_that_was_made_in_inference_mode_predicts_and_says_why_no_more():
    net, x = made_in_inference(), pictures(3).float()
    assert torch.allclose(predict(net, x), predict(single(), x))
    with pytest.raises(InputError, match='made in inference mode.*outside'): value_and_gradient(net, x, C)
    with torch.inference_mode(), pytest.raises(InputError, match='made in inference mode.*outside'): value_and_gradient(net, x, C)

@pytest.mark.parametrize('size', [1, 3])
def test_an_export_for_one_batch_says_so(size):
    net = torch.export.export(single(), (torch.rand(2, 3, 8, 8),)).module()
    with pytest.raises(InputError, match='exported for other batches'): predict(net, pictures(3).float(), size)
    assert torch.allclose(predict(net, pictures(4).float(), 2), predict(single(), pictures(4).float()))

class Sized(nn.Module):
    def __init__(self): super().__init__(); self.embed = nn.Parameter(torch.randn(1, 3, 8, 8)); self.last = nn.Linear(3*64, 5)
    def forward(self, x): return self.last((x + self.embed).flatten(1))
class Asserts(Bare):
    def forward(self, x): torch._assert(x.shape[2] == 8, f'Wrong image height! Expected 8 but got {x.shape[2]}!'); return super().forward(x)
@pytest.mark.parametrize('net', [Sized(), Asserts(), nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), nn.Sequential(nn.Conv2d(1, 2, 3)),
                                 nn.Sequential(nn.BatchNorm2d(8), single())], ids=['position', 'assertion', 'linear', 'channels', 'norm'])
def test_images_of_another_shape_are_refused_with_it(net):
    with pytest.raises(InputError, match=r'images of shape \(3, 12, 12\)'): predict(net, pictures(2, h=12, w=12).float())

@pytest.mark.parametrize('net', [smooth, lambda: Bare(), lambda: Sized()])
def test_errors_of_the_network_itself_are_its_own(net):
    net = net()
    net.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError('a fault of mine')))
    with pytest.raises(RuntimeError, match='^a fault of mine$'): predict(net, pictures(2))


# ---- in which precision

TOLERATED = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 3e-2, torch.bfloat16: 3e-1}
@pytest.mark.parametrize('image', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('weights', TOLERATED)
def test_images_are_converted_and_what_comes_is_of_their_kind(weights, image):
    net, x = smooth().to(weights), pictures(3).to(image)
    found, must = both(net, x), both(smooth(), x.double())
    off = max(TOLERATED[weights], TOLERATED[image])
    assert all(v.dtype == image for v in found) and next(net.parameters()).dtype == weights
    assert all((a.double() - b).abs().max() <= off*(1 + b.abs().max()) for a, b in zip(found, must))

@pytest.mark.parametrize('weights', TOLERATED)
@pytest.mark.parametrize('method', ['IntegratedGradients', 'GuidedIG', 'BlurIG'])
def test_maps_of_every_precision(weights, method):
    net, x = smooth().to(weights), pictures(2).float()
    how = dict(max_sigma=3.) if method == 'BlurIG' else {}
    a, b = (getattr(ir, method)(n, **how).attribute(x, target=C[:2], n_steps=8) for n in (net, smooth().float()))
    assert a.dtype == torch.float32 and (a - b).norm() < max(1e-3,
                                                             4*TOLERATED[weights])*b.norm() or method == 'GuidedIG' and a.isfinite().all()

@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('make', [single, lambda: Says(lambda z: Output(z)).float(), lambda: function])
def test_under_autocast(make, kind):
    net, x = make(), pictures(3).float()
    plain = both(net, x)
    with torch.autocast('cpu', kind): cast = both(net, x)
    assert all(v.dtype == torch.float32 for v in cast) and agree(cast, plain, atol=.3) and not torch.equal(cast[0], plain[0])

@pytest.mark.parametrize('image', [torch.float32, torch.float64])
@pytest.mark.parametrize('make', [single, smooth, lambda: smooth().half(), Bare,
                                  lambda: (lambda x, net=smooth(): net(x.double()).to(x.dtype))])
def test_with_another_default(make, image):
    x, net = pictures(3).to(image), make()
    must, was = both(net, x), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert agree(both(net, x), must, atol=1e-6)
        assert ir.IntegratedGradients(net).attribute(x, n_steps=4).dtype == image
    finally: torch.set_default_dtype(was)

INSIDE = dict(predict=lambda n, x, c: predict(n, x), gradient=lambda n, x, c: value_and_gradient(n, x, c)[1], IG=lambda n, x,
              c: ir.IntegratedGradients(n).attribute(x, target=c, n_steps=4),
    idgi=lambda n, x, c: ir.attribute(n, x, c, ir.StraightPath(x*.1), (4,))['idgi', 4], guided=lambda n, x, c: ir.GuidedIG(n).attribute(x,
    target=c, n_steps=4), blurred=lambda n, x, c: ir.BlurIG(n, max_sigma=2.).attribute(x, n_steps=4),
    second_order=lambda n, x, c: ir.attribute(n, x, c, ir.StraightPath(), (2,), (ir.second_order,))['second_order', 2], delta=lambda n, x,
              c: ir.IntegratedGradients(n).attribute(x, n_steps=4, return_convergence_delta=True)[1],
    insertion=lambda n, x, c: ir.insertion(n, x, x.sum(1), c, 0*x).curve)
@pytest.mark.parametrize('make', [single, lambda: single().train(), lambda: function], ids=['evaluation', 'training', 'function'])
@pytest.mark.parametrize('look', INSIDE)
def test_in_inference_mode(look, make):
    "With images, and targets, that were made there."
    net, x = make(), pictures(3).float()
    must = INSIDE[look](net, x, C)
    with torch.inference_mode():
        y, c = x.clone(), C.clone()
        found = INSIDE[look](net, y, c)
        assert y.is_inference() and torch.is_inference_mode_enabled()
    assert torch.equal(found, must) and torch.equal(INSIDE[look](net, y, c), must)

def test_integer_images_have_no_gradient_but_may_be_predicted():
    x = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    net = lambda x: (x.float()/255).mean((2, 3))
    assert predict(net, x).dtype == torch.float32
    with pytest.raises(InputError, match='floating point.*uint8'): value_and_gradient(net, x, C)


# ---- what is known of them

PLACED = [(single, torch.float32), (smooth, torch.float64), (lambda: smooth().half(), torch.float16),
          (lambda: smooth().bfloat16(), torch.bfloat16), (Buffers, torch.float32), (Bare, None), (lambda: function, None), (Plain, None),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1).half()), torch.float16), (lambda: nn.BatchNorm2d(3).double(),
    torch.float64), (lambda: nn.Sequential(nn.Conv2d(3, 2, 1).double(), nn.Linear(2, 2)), torch.float64),
    (lambda: script(single()), torch.float32), (lambda: torch.jit.freeze(script(single())), None),
          (lambda: export(smooth().float()), torch.float32)]
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make,must', PLACED)
def test_dtype_and_device(make, must): assert dtype_and_device(make()) == (must, must and torch.device('cpu'))

class Short(Tensor):
    "On a device without float64."
    said = TypeError
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        asked = (*args, *(kwargs or {}).values())
        if f is Tensor.double or any(a is torch.float64 for a in asked):
            raise cls.said("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 "
                           "instead.")
        return super().__torch_function__(f, types, args, kwargs or {})
class ShortRuntime(Short): said = RuntimeError

@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize('device,must', [(Tensor, torch.float64), (Short, torch.float32), (ShortRuntime, torch.float32)])
def test_in_double(device, must, kind):
    t = torch.tensor([0., 1.]).to(kind).as_subclass(device)
    if kind == torch.float64 and device is not Tensor: return                 # there are none of these
    found = in_double(t)
    assert found.dtype == must and found.tolist() == [0, 1]

def test_in_double_does_not_hide_a_lack_of_memory():
    class Full(Tensor):
        def double(self): raise torch.OutOfMemoryError('out of memory')
    with pytest.raises(torch.OutOfMemoryError): in_double(torch.ones(2).as_subclass(Full))
