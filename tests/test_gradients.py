"Scores, their gradients, and a network that is left as it was found."
import pytest, torch
from torch import nn

from idgi_repro.study.images import Embedded, load_batch
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import contrast, evaluating, logit, predict, prepare, probability, value_and_gradient
from idgi_repro.study.embedded import EMBEDDED
from idgi_repro.study.models import load
from reference import Function, image, look, pictures, smooth

SCORES = [probability, logit, contrast]


KNOWN = [(probability, [1/2, 1/6]), (logit, [3., 1.]), (contrast, [3/3, 1/5])]

@pytest.mark.parametrize('score,expected', KNOWN, ids=['probability', 'logit', 'contrast'])
def test_scores_of_known_logits(score, expected):
    "exp(logits) are 3, 2, 1: probabilities 3/6 and 1/6, odds 3 : 3 and 1 : 5."
    got = score(torch.tensor([[3., 2, 1]]).log().repeat(2, 1), torch.tensor([0, 2]))
    assert torch.allclose(got if score is probability else got.exp(), torch.tensor(expected))


def test_contrast_is_the_log_odds_of_probability():
    z, c = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 5, 2])
    assert torch.allclose(contrast(z, c), probability(z, c).logit())


@pytest.mark.parametrize('score', SCORES)
def test_gradient_is_the_limit_of_differences(score):
    net, x, c = smooth(), pictures(3), torch.tensor([0, 4, 2])
    v = pictures(3, seed=1)
    _, g = value_and_gradient(net, x, c, score)
    up, down = (score(predict(net, x + e*v), c) for e in (1e-5, -1e-5))
    assert torch.allclose((g*v).sum((1, 2, 3)), (up - down)/2e-5, rtol=1e-7)


def test_value_and_gradient_of_each_image_is_that_of_the_image_alone():
    net, x, c = smooth(), pictures(5), torch.tensor([0, 1, 2, 3, 4])
    f, g = value_and_gradient(net, x, c, batch_size=2)
    for i in range(5):
        fi, gi = look(net, x[i], int(c[i]))
        assert abs(f[i] - fi) < 1e-14 and torch.allclose(g[i], gi, rtol=1e-12, atol=1e-15)


def test_gradient_of_a_known_function():
    f, g = value_and_gradient(Function(lambda a, b: a**2*b), image(3, 5), torch.tensor([0]), logit)
    assert f.tolist() == [45] and g.flatten().tolist() == [30, 9]


def test_internal_batches_are_no_larger_than_asked():
    seen, net = [], smooth()
    net.register_forward_pre_hook(lambda m, a: seen.append(len(a[0])))
    value_and_gradient(net, pictures(7), torch.zeros(7, dtype=torch.long), batch_size=3)
    predict(net, pictures(7), batch_size=4)
    assert seen == [3, 3, 1, 4, 3]


def test_gradients_do_not_need_grad_mode_and_leave_no_trace():
    net, x = smooth(), pictures(2)
    with torch.no_grad(): f, g = value_and_gradient(net, x, torch.tensor([0, 1]))
    assert g.abs().sum() > 0 and not f.requires_grad and not g.requires_grad and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_dropout_and_batch_norm_are_in_evaluation_mode():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(.9), nn.Flatten(), nn.Linear(192, 2)).double().train()
    before = net[0].running_mean.clone()
    a, b = (value_and_gradient(net, pictures(4), torch.zeros(4, dtype=torch.long))[1] for _ in range(2))
    assert torch.equal(a, b) and torch.equal(net[0].running_mean, before) and net.training


@pytest.mark.parametrize('fails', [False, True])
def test_evaluating_restores_mixed_modes_and_frozen_parameters(fails):
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.Linear(2, 2)).train()
    net[1][0].eval()
    net[0].weight.requires_grad_(False)
    def state(): return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    before = state()
    try:
        with evaluating(net):
            assert not any(sum(state(), []))
            if fails: raise KeyError
    except KeyError: pass
    assert state() == before and any(before[0]) and not all(before[0]) and any(before[1]) and not all(before[1])


class Returns(nn.Module):
    def __init__(self, out): super().__init__(); self.out = out
    def forward(self, x): return self.out(x)

@pytest.mark.parametrize('out,said', [
    (lambda x: x.mean((0, 2, 3)), r'\(3,\)'), (lambda x: x, r'\(2, 3, 8, 8\)'), (lambda x: x.mean((2, 3))[:1], r'\(1, 3\)'),
    (lambda x: ('logits', x.mean((2, 3))), 'tuple'), (lambda x: {'out': x}, 'dict'), (lambda x: None, 'NoneType')],
    ids=['(K,)', '(B, C, H, W)', 'short', 'tuple', 'dict', 'None'])
def test_an_output_that_is_not_B_K_is_refused_and_named(out, said):
    net, x = Returns(out).train(), pictures(2)
    with pytest.raises(InputError, match=said): value_and_gradient(net, x, torch.tensor([0, 0]))
    with pytest.raises(InputError, match=said): predict(net, x)
    assert net.training


@pytest.mark.parametrize('bad', [-1, 5])
@pytest.mark.parametrize('position', [0, 3])
def test_a_target_outside_the_classes_is_refused_wherever_it_stands(bad, position):
    c = torch.zeros(4, dtype=torch.long)
    c[position] = bad
    with pytest.raises(InputError, match='5 classes'): value_and_gradient(smooth(), pictures(4), c, batch_size=2)


def test_wrong_channel_count_says_so_and_restores_the_network():
    net = smooth().train()
    with pytest.raises(InputError, match='channels'): value_and_gradient(net, pictures(2, c=4), torch.tensor([0, 0]))
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize('name', EMBEDDED)
def test_prepared_networks_agree_with_themselves(name):
    "Probabilities to 1e-6; gradients, whose ReLUs switch where rounding decides, to 2 % in the L2 norm of every image."
    net = load(name)
    batch = load_batch(net, Embedded(8))
    x = net.normalize(batch.pixels)
    fast = prepare(net.module, x[:2])
    assert fast is not net.module
    (v, g), (w, h) = (value_and_gradient(m, x, batch.labels) for m in (net.module, fast))
    assert torch.allclose(v, w, atol=1e-6, rtol=0)
    assert ((g - h).flatten(1).norm(dim=1) < .02*g.flatten(1).norm(dim=1)).all()
