"Scores that mean something for the network, and networks that several threads explain."
from threading import Barrier, Thread
import warnings

import pytest, torch
from torch import nn

import idgi_repro as ir
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import (contrast, ends_in_softmax, evaluating, fitting, logit, output, predict, prepare, probability,
                                         sigmoid, value_and_gradient)
from reference import pictures, smooth

class Ends(nn.Module):
    "`smooth`, and what comes behind it."
    def __init__(self, end, classes=5): super().__init__(); self.net, self.end = smooth(classes=classes), end
    def forward(self, x): return self.end(self.net(x))

KEPT, SOFTMAX, SIGMOID = (lambda z: z), (lambda z: z.softmax(1)), (lambda z: z.sigmoid())

# ---- what a score computes

Z = torch.tensor([[0., 1.], [2., -1.]])
@pytest.mark.parametrize('score,target,must', [
    (sigmoid, [0, 1], [.5, 1/(1 + torch.e)]), (sigmoid, [1, 0], [1/(1 + 1/torch.e), 1/(1 + torch.e**-2)]), (output, [0, 1], [0., -1.]),
    (output, [1, 0], [1., 2.]), (logit, [1, 0], [1., 2.])])
def test_scores_of_known_logits(score, target, must): assert torch.allclose(score(Z, torch.tensor(target)), torch.tensor(must))

@pytest.mark.parametrize('kind', [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize('score', [probability, logit, contrast, sigmoid, output])
def test_targets_of_every_integer_type(score, kind):
    assert torch.equal(score(Z, torch.tensor([1, 0]).to(kind)), score(Z, torch.tensor([1, 0])))


# ---- one output

@pytest.mark.parametrize('score', [probability, contrast])
@pytest.mark.parametrize('end', [KEPT, SIGMOID, SOFTMAX, lambda z: z[:, 0]], ids=['logit', 'sigmoid', 'softmax', '(B,)'])
def test_one_output_is_no_matter_of_a_softmax(score, end):
    with pytest.raises(InputError, match='one output.*score=sigmoid.*score=output'):
        value_and_gradient(Ends(end, classes=1), pictures(2), torch.tensor([0, 0]), score)

ALONE = [(sigmoid, KEPT), (logit, KEPT), (output, SIGMOID), (output, KEPT), (sigmoid, lambda z: z[:, 0])]
@pytest.mark.parametrize('score,end', ALONE, ids=['sigmoid', 'logit', 'output of a sigmoid', 'output', '(B,)'])
@pytest.mark.parametrize('method', ['IntegratedGradients', 'GuidedIG', 'BlurIG'])
def test_one_output_is_explained_and_completely(score, end, method):
    net, x = Ends(end, classes=1), pictures(2)
    how = dict(max_sigma=5.) if method == 'BlurIG' else {}
    a, delta = getattr(ir, method)(net, score, **how).attribute(x, target=0, n_steps=200, return_convergence_delta=True)
    assert a.abs().sum() > 1e-4 and (delta.abs() < .05*a.abs().sum((1, 2, 3))).all()

def test_sigmoid_of_one_logit_is_probability_of_two():
    "Two logits (0, z) have the softmax sigmoid(z) for the second; so have the gradients."
    one, x = Ends(KEPT, classes=1), pictures(3)
    two = Ends(KEPT, classes=1); two.load_state_dict(one.state_dict()); two.end = lambda z: torch.cat([torch.zeros_like(z), z], 1)
    (f, g), (p, q) = value_and_gradient(one, x, torch.tensor([0, 0, 0]), sigmoid), value_and_gradient(two, x,
        torch.tensor([1, 1, 1]), probability)
    assert torch.allclose(f, p) and torch.allclose(g, q)

@pytest.mark.parametrize('target', [[1, 1], [0, 1], [-1, 0]])
def test_the_target_of_one_output_is_0(target):
    with pytest.raises(InputError, match='one output, and its target is 0'):
        value_and_gradient(Ends(KEPT, 1), pictures(2), torch.tensor(target), sigmoid)

def test_a_copy_of_one_output_is_compared_by_more_than_a_softmax():
    "The softmax of one logit is 1 for every copy, right or wrong."
    class Jumpy(nn.Module):
        def __init__(self, shift=0.): super().__init__(); self.shift = shift
        def __deepcopy__(self, memo): return Jumpy(self.shift + 1)
        def forward(self, x): return x.mean((1, 2, 3))[:, None] + self.shift if x.sum() > -1e9 else x
    jumpy = Jumpy()
    with pytest.warns(UserWarning, match='changes a probability'): assert prepare(jumpy, pictures(2)) is jumpy


# ---- ends in a softmax

@pytest.mark.parametrize('end,says', [(SOFTMAX, True), (lambda z: z.softmax(1).clamp(1e-6), True), (lambda z: z.float().softmax(1), True),
    (lambda z: z.bfloat16().softmax(1), True), (lambda z: torch.cat([z.softmax(1), 0*z], 1), True), (KEPT, False), (SIGMOID, False),
                                      (lambda z: z.log_softmax(1), False),
    (lambda z: z.relu(), False), (lambda z: 2*z.softmax(1), False), (lambda z: z.softmax(1)[:, :1]*0 + 1, False),
                                      (lambda z: z.softmax(0), False), (lambda z: z*torch.nan, False)])
def test_a_softmax_at_the_end_is_seen(end, says): assert ends_in_softmax(predict(Ends(end), pictures(3))) is says

@pytest.mark.parametrize('score', [probability, contrast])
@pytest.mark.parametrize('explain', [lambda n, x, c, s: value_and_gradient(n, x, c, s, 2), lambda n, x, c,
                                     s: ir.attribute(n, x, c, ir.StraightPath(), (4, 8), score=s, batch_size=2),
    lambda n, x, c, s: ir.IDGI(ir.IntegratedGradients(n, s)).attribute(x, target=c, n_steps=4), lambda n, x, c,
                                     s: ir.GuidedIG(n, s).attribute(x, target=c, n_steps=4)],
    ids=['gradient', 'attribute', 'IDGI', 'GuidedIG'])
def test_two_softmaxes_are_warned_of_once(score, explain):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        explain(Ends(SOFTMAX), pictures(3), torch.tensor([0, 1, 2]), score)
    assert [str(w.message)
            for w in said] == [f'the network ends in a softmax, and score={score.__name__} takes another one; explain it with score=output']

@pytest.mark.parametrize('score,end', [(output, SOFTMAX), (logit, SOFTMAX), (probability, KEPT), (contrast, KEPT), (sigmoid, KEPT),
                                       (probability, lambda z: z.log_softmax(1))])
def test_nothing_is_said_of_a_score_that_fits(score, end):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        value_and_gradient(Ends(end), pictures(3), torch.tensor([0, 1, 2]), score)

def test_output_of_a_softmax_is_probability_of_its_logits():
    x, c = pictures(3), torch.tensor([4, 0, 2])
    for a, b in zip(value_and_gradient(Ends(SOFTMAX), x, c, output), value_and_gradient(Ends(KEPT), x, c, probability)):
        assert torch.allclose(a, b)

@pytest.mark.parametrize('score', [lambda z, c: z, lambda z, c: z.sum(), lambda z, c: logit(z, c)[:, None], lambda z, c: logit(z, c)[:1]],
                         ids=['(B, K)', '()', '(B, 1)', '(1,)'])
def test_a_score_is_one_number_an_image(score):
    with pytest.raises(InputError, match='one number for each of 3 images'):
        value_and_gradient(smooth(), pictures(3), torch.tensor([0, 1, 2]), score)

def test_a_score_looks_at_its_first_logits_only():
    "A GPU would have to wait for each look."
    looks = []
    class Watched(torch.Tensor):
        def __bool__(self): looks.append(1); return super().__bool__()
        def __int__(self): looks.append(1); return super().__int__()
    z, c = torch.randn(3, 5).as_subclass(Watched), torch.tensor([0, 1, 2]).as_subclass(Watched)
    fit = fitting(probability, c)
    fit(z, c)
    seen = len(looks)
    for _ in range(5): fit(z, c)
    assert len(looks) == seen > 0

@pytest.mark.parametrize('place', [0, 1, 4])
def test_a_class_that_is_not_there_is_refused_before_its_batch(place):
    c = torch.zeros(5, dtype=torch.long); c[place] = 7
    passes, net = [], smooth()
    net.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(InputError, match='5 classes'): ir.attribute(net, pictures(5), c, ir.StraightPath(), (2,), batch_size=1)
    assert len(passes) == 1


# ---- two threads

class Noting(nn.Module):
    "Notes at every pass whether anything of it is in training mode; in the first pass it says that it began, and waits until another left."
    def __init__(self, net): super().__init__(); self.net, self.modes, self.began, self.left = net, [], Barrier(2), Barrier(2)
    def mode(self): return any(m.training for m in self.modules()), any(p.requires_grad for p in self.parameters())
    def forward(self, x):
        if not self.modes: self.began.wait(5); self.left.wait(5)
        self.modes.append(self.mode())
        return self.net(x)

def together(*calls):
    "Runs calls in threads, and gives what they return."
    found = [None]*len(calls)
    def run(i):
        try: found[i] = calls[i]()
        except BaseException as e: found[i] = e
    threads = [Thread(target=run, args=(i,)) for i in range(len(calls))]
    for t in threads: t.start()
    for t in threads: t.join(10)
    return found

def training():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(16, 5)).double().train()

@pytest.mark.parametrize('explain', [
    lambda n, x: predict(n, x), lambda n, x: value_and_gradient(n, x, torch.zeros(len(x), dtype=torch.long))[1],
    lambda n, x: ir.attribute(n, x, torch.zeros(len(x), dtype=torch.long), ir.StraightPath(), (1,), rules=(ir.riemann,),
                              batch_size=len(x))['riemann', 1],
    lambda n, x: ir.IntegratedGradients(n).attribute(x, target=0, n_steps=1)], ids=['predict', 'gradient', 'attribute', 'IG'])
def test_one_thread_leaves_while_another_computes(explain):
    "What the one that stays finds is what it finds alone."
    net = training()
    alone = explain(net, pictures(2, seed=1))
    shared = Noting(net).train()
    def leaves():
        with evaluating(shared):
            shared.began.wait(5)
            inside = shared.mode()
        shared.left.wait(5)
        return inside
    inside, found = together(leaves, lambda: explain(shared, pictures(2, seed=1)))
    assert inside == (False, False) and torch.equal(found, alone)
    assert set(shared.modes) == {(False, False)} and shared.mode() == (True, True) and net[2].training and net[0].weight.requires_grad

@pytest.mark.parametrize('outer', ['first', 'second'])
def test_threads_whose_networks_share_layers(outer):
    "A wrapper and its network are two networks with the same layers."
    net, entered, left = training(), Barrier(2), Barrier(2)
    wrapper = nn.Sequential(net)
    a, b = (wrapper, net) if outer == 'first' else (net, wrapper)
    def first():
        with evaluating(a): entered.wait(5)
        left.wait(5)
    def second():
        with evaluating(b):
            entered.wait(5); left.wait(5)
            return any(m.training for m in net.modules()) or any(p.requires_grad for p in net.parameters())
    assert together(first, second) == [None, False]
    assert all(m.training for m in wrapper.modules()) and all(p.requires_grad for p in net.parameters())

def test_many_threads_leave_a_mixed_network_as_it_was():
    net, start = training(), Barrier(8)
    net[1].eval(); net[5].bias.requires_grad_(False)
    state = lambda: [m.training for m in net.modules()] + [p.requires_grad for p in net.parameters()]
    before, x = state(), pictures(3)
    alone = predict(net, x)
    def work(): start.wait(5); return all(torch.equal(predict(net, x, 3), alone) for _ in range(20))
    assert together(*[work]*8) == [True]*8 and state() == before

@pytest.mark.parametrize('depth', [1, 2, 5])
@pytest.mark.parametrize('fails', [False, True])
def test_blocks_within_blocks(depth, fails):
    net = training()
    def go(n):
        with evaluating(net):
            if n: go(n-1)
            elif fails: raise KeyError
            assert not net.training and not net[0].weight.requires_grad
    try: go(depth)
    except KeyError: assert fails
    assert net.training and net[0].weight.requires_grad
