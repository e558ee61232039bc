"Re-calibrated attributions: the published code's maps and curves, properties of paths and rules, bad input."
import sys
import numpy as np, pytest, torch
from torch import nn
from hypothesis import given, settings, strategies as st

from idgi_repro.errors import InputError
from idgi_repro.method.attribution import attribute
from idgi_repro.method.diffid import diffid
from idgi_repro.method.gradients import log_probability, logit, predict, weighted_contrast
from idgi_repro.method.recalibration import Mean, ValidInterpolations, ValidReferences
from idgi_repro.method.references import (AdversarialPath, ReferencePath, References, noise_references, other_classes, other_images,
                                          random_alphas, uniform_references)
from idgi_repro.method.paths import BlurPath, StraightPath
from idgi_repro.method.rules import absolute, idgi, riemann, trapezoid

fast = settings(max_examples=15, deadline=None)
RULES = dict(vanilla=Mean, valid_ref=ValidReferences, valid_ip=ValidInterpolations)


# ---- the published code's results

class Golden:
    """One network's part of recalibration.npz. Products near zero fall on one side or the other by rounding, the recording's as ours:
    a map is met where ours is in single or in double precision."""
    def __init__(self, shared, of, net):
        self.file, self.of, self.net = np.load(shared/'golden'/'recalibration.npz'), of, net
        self.mean, self.std = (self(k).float() for k in ('mean', 'std'))
        self.x, self.target = self.normalize(self('pixels')), self('target')

    def __call__(self, key): return torch.from_numpy(self.file[f'{self.of}/{key}'])
    def normalize(self, pixels): # in single precision, as the recording: where a reference equals the image their difference is zero
        return ((pixels.float()/255).movedim(-3, -1) - self.mean).div(self.std).movedim(-1, -3).double()
    def references(self, key):
        found = self(f'refs/{key}')
        return self.normalize(found) if found.dtype == torch.uint8 else found.double()

    def maps(self, path, rules, protocol, score):
        "Maps in single and in double precision, by rule."
        for dtype in (torch.float32, torch.float64):
            yield attribute(self.net.to(dtype), self.x.to(dtype), self.target, path(dtype), rules=rules, protocol=protocol, score=score)

    def meets(self, keys, path, rules, protocol='corrected', better_half=False, score=logit, tolerance=1e-2):
        "Whether maps are those on record; of a large one every fourth row and column is."
        for key, *pair in zip(keys, *(found.values() for found in self.maps(path, rules, protocol, score))):
            wanted = self(key).double().flatten(1)
            found = torch.stack([(a if self.of == 'cifar' else a[..., ::4, ::4]).double().flatten(1) for a in pair])
            off = ((found - wanted).norm(dim=2)/wanted.norm(dim=1)).amin(0)
            cosine = torch.nn.functional.cosine_similarity(found, wanted[None], dim=2).amax(0)
            if better_half: off, cosine = off.sort().values[:len(off)//2], cosine.sort(descending=True).values[:len(off)//2]
            assert off.max() < tolerance and cosine.min() > 1 - tolerance**2, (key, off, cosine)


@pytest.fixture(scope='module', params=['cifar', 'imagenet'])
def golden(shared, request):
    sys.path.insert(0, str(shared/'realdata'))
    import realdata
    found = Golden(shared, request.param, (realdata.cifar_resnet(20) if request.param == 'cifar' else realdata.mobilenet_v2())[0])
    assert (predict(found.net, found.x.float()) - found('logits')).abs().max() < 1e-3
    yield found
    sys.path.remove(str(shared/'realdata'))


@pytest.mark.parametrize('protocol, name', [('published', 'published'), ('corrected', 'paired')])
@pytest.mark.parametrize('method, refs', [('ig_uniform', 'ig_uniform'), ('ig_sg', 'ig_sg'), ('ig_sq', 'ig_sg')])
def test_paths_to_noise_meet_the_published_maps(golden, method, refs, protocol, name):
    rules = [rule(squared=method == 'ig_sq') for rule in RULES.values()]
    path = lambda dtype: ReferencePath(golden.references(refs).to(dtype), golden('R_k_steps').tolist()[1])
    golden.meets([f'map/{method}/{rule}/{name}' for rule in RULES], path, rules, protocol)


@pytest.mark.parametrize('key, score, tolerance', [('prob', log_probability, 5e-2), ('contrast', weighted_contrast, 1e-2)])
def test_other_scores_meet_the_published_maps(golden, key, score, tolerance):
    "Where probability nears 1 the logarithm of it is rounding, so the tolerance of `prob` is wider."
    if golden.of == 'imagenet': pytest.skip('recorded of CIFAR only')
    path = lambda dtype: ReferencePath(golden.references('ig_sg').to(dtype), golden('R_k_steps').tolist()[1])
    golden.meets([f'map_{key}/ig_sg/valid_ip/paired'], path, [ValidInterpolations()], score=score, tolerance=tolerance)


def test_expected_gradients_meet_the_published_maps(golden):
    path = lambda dtype: ReferencePath(golden.references('eg').to(dtype), 1, golden('alpha/eg')[..., None])
    golden.meets([f'map/eg/{rule}' for rule in RULES], path, [rule() for rule in RULES.values()])


def test_adversarial_paths_meet_the_published_maps(golden):
    if golden.of == 'imagenet': pytest.skip('the walk of its one photograph is chaotic: ours in single and in double precision are .78 apart')
    path = lambda dtype: AdversarialPath(golden('classes/agi'), golden('R_k_steps').tolist()[2], normalize=(golden.mean, golden.std))
    golden.meets([f'map/agi/{rule}' for rule in RULES], path, [rule() for rule in RULES.values()], 'published', better_half=True)


@pytest.mark.parametrize('rule', ['vanilla', 'valid_ip'])
@pytest.mark.parametrize('key, unit, protocol', [('element', 'value', 'corrected'), ('pixel', 'pixel', 'corrected'), ('published', 'value', 'published')])
def test_diffid_meets_the_published_curves(shared, rule, key, unit, protocol):
    sys.path.insert(0, str(shared/'realdata'))
    import realdata
    g = Golden(shared, 'cifar', realdata.cifar_resnet(20)[0])
    sys.path.remove(str(shared/'realdata'))
    g.of = 'diffid'
    x, target = g.normalize(g('pixels')).float(), g('target')
    found = diffid(g.net.float(), x, target, g(f'map/{rule}'), unit, protocol=protocol)
    images, ratio = (1, 1e-2) if key != 'published' else (3, .02)
    for o, order in enumerate(('ins', 'del')):
        assert (found.correct[:, o].float().mean(0) - g(f'{rule}/{key}/{order}_acc')).abs().max() <= images/len(x) + 1e-3
        assert (found.ratio[:, o].nanmean(0) - g(f'{rule}/{key}/{order}_logit')).abs().max() <= ratio
    if key == 'published': return
    assert (found.correct != g(f'{rule}/{key}/correct')).flatten(1).any(1).sum() <= 1
    assert torch.allclose(found.ratio, g(f'{rule}/{key}/ratio'), atol=1e-2)


# ---- properties, in double precision

class Smooth(nn.Module):
    "A small network without kinks."
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = (nn.Parameter(torch.randn(*s, generator=generator, dtype=torch.float64)/s[1]**.5) for s in ((16, 48), (5, 16)))
    def forward(self, x): return torch.tanh(x.flatten(1) @ self.a.T) @ self.b.T

NET, SIZE = Smooth(), (3, 4, 4)
pictures = lambda n: torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
classes = lambda n: torch.arange(n) % 5
same = lambda x: x
ALL = [rule(squared) for rule in RULES.values() for squared in (False, True)]


def maps(x, path, rules=ALL, **how): return attribute(NET, x, classes(len(x)), path, rules=rules, score=logit, **how)
def alike(a, b): return all(torch.allclose(a[k], b[k], rtol=1e-7, atol=1e-12) for k in a)


@fast
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 40))
def test_the_batch_changes_nothing(images, R, k, size):
    x, seeds = pictures(images), range(images)
    path = lambda rows: ReferencePath(uniform_references(seeds[rows], R, same), k)
    whole = maps(x, path(slice(None)))
    assert alike(whole, maps(x, path(slice(None)), batch_size=size))
    for i in range(images):
        one = attribute(NET, x[i:i+1], classes(images)[i:i+1], path(slice(i, i+1)), rules=ALL, score=logit)
        assert alike(one, {key: a[i:i+1] for key, a in whole.items()})


@fast
@given(st.permutations(range(4)), st.integers(1, 4))
def test_the_order_of_lines_changes_nothing(order, k):
    x, r = pictures(3), torch.rand(3, 4, *SIZE, dtype=torch.float64)
    assert alike(maps(x, ReferencePath(r, k)), maps(x, ReferencePath(r[:, order], k)))


@pytest.mark.parametrize('R, k', [(1, 1), (2, 5), (10, 5), (6, 4)])
def test_a_line_and_a_reference_are_paired_as_the_protocol_has_it(R, k):
    x, r = pictures(1)*0, torch.arange(R, dtype=torch.float64).view(1, R, 1, 1, 1).expand(1, R, *SIZE) + 1
    met = []
    class Seen(Mean):
        def add(self, sums, s): met.append(s.p)
    for protocol in ('corrected', 'published'):
        met.clear()
        attribute(NET, x, classes(1), ReferencePath(r, k), rules=[Seen()], protocol=protocol, score=logit)
        alpha = torch.linspace(0, 1, k) if k > 1 else torch.ones(1)
        for m, p in enumerate(met):
            which = m % R if protocol == 'published' else m//k
            assert p.line == m//k and torch.allclose(p.x, (1 - alpha[m % k].double())*r[:, which]) and torch.equal(p.span, -r[:, m//k])


def test_at_alpha_one_the_product_is_zero_and_counts():
    x = pictures(2)
    r = torch.rand(2, 3, *SIZE, dtype=torch.float64)
    at_one = ReferencePath(r, 2, torch.ones(2, 3, 2, dtype=torch.float64))
    assert maps(x, at_one, [ValidInterpolations()])['valid_interpolations', 6].eq(0).all()
    sums = maps(x, ReferencePath(torch.cat([r, x[:, None]], 1), 2))           # one reference is the image: it counts, and is no NaN
    assert all(a.isfinite().all() for a in sums.values())


def test_with_every_product_positive_valid_interpolations_are_the_mean_product():
    class Sum(nn.Module):
        def forward(self, x): return x.flatten(1).sum(1)[:, None].expand(-1, 5)
    x, r = pictures(2).abs() + 2, torch.rand(2, 3, *SIZE, dtype=torch.float64)
    found = attribute(Sum(), x, classes(2), ReferencePath(r, 4), rules=[ValidInterpolations()], score=logit)['valid_interpolations', 12]
    alpha = torch.linspace(0, 1, 4, dtype=torch.float64)
    P = torch.stack([(x - (a*x + (1 - a)*r[:, i]))/4 for i in range(3) for a in alpha])
    assert torch.allclose(found, P.mean(0))


def test_riemann_is_the_mean_and_completeness_is_of_the_mean_reference():
    x, path = pictures(3), ReferencePath(uniform_references(range(3), 4, same), 200)
    found = maps(x, path, [Mean(), riemann, idgi, absolute])
    assert torch.allclose(found['mean', 800], found['riemann', 800]) and (found['absolute', 800] >= found['riemann', 800].abs() - 1e-9).all()
    value = lambda p: logit(predict(NET, p.flatten(0, 1)), classes(3).repeat(len(p))).view(p.shape[:2])
    change = path.change(value, x)
    assert torch.allclose(found['idgi', 800].sum((1, 2, 3)), change, atol=1e-8)
    assert torch.allclose(found['mean', 800].sum((1, 2, 3)), change, atol=.02)


def test_references_are_drawn_as_they_are_needed():
    "No more than a block of lines at a time, however many there are."
    asked = []
    def draw(x, lines):
        asked.append(len(lines))
        return torch.zeros(len(lines), *x.shape, dtype=x.dtype)
    maps(pictures(2), ReferencePath(References(50, draw), 2), batch_size=8)
    assert max(asked) <= 4 and sum(asked) <= 100


@pytest.mark.parametrize('cumulative', [False, True])
def test_an_adversarial_path_is_what_its_formula_says(cumulative):
    x, towards, eps = pictures(2).sigmoid(), torch.tensor([[1, 2], [0, 3]]), .05
    mean, std = torch.tensor([.1, .2, .3]), torch.tensor([.5, .4, .3])
    undo = lambda v: v*std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    normal = lambda q: (q - mean.view(-1, 1, 1))/std.view(-1, 1, 1)
    by_hand = torch.zeros_like(x)
    for line in range(2):
        q = undo(x)
        for _ in range(3):
            p = q.clone().requires_grad_()
            g, = torch.autograd.grad(logit(NET(normal(p)), towards[:, line]).sum(), p)
            q = ((q if cumulative else undo(x)) + eps*g.sign()).clamp(0, 1)
            p = q.clone().requires_grad_()
            by_hand += (undo(x) - q)*torch.autograd.grad(logit(NET(normal(p)), classes(2)).sum(), p)[0]
    path = AdversarialPath(towards, 3, eps, (mean, std), cumulative)
    for size in (1, 2, 64): assert torch.allclose(maps(x, path, [Mean()], batch_size=size)['mean', 6], by_hand)
    assert path.gradients((6,)) == 12


def test_draws_belong_to_the_image():
    seeds, target = [5, 6, 7], torch.tensor([1, 2, 0])
    assert torch.equal(other_classes(seeds, target, 3, 10)[1:], other_classes(seeds[1:], target[1:], 3, 10))
    assert torch.equal(other_images(seeds, 4, 50)[2:], other_images(seeds[2:], 4, 50))
    assert torch.equal(random_alphas(seeds, 4, 2)[:1], random_alphas(seeds[:1], 4, 2))
    drawn = other_classes(range(200), torch.zeros(200, dtype=torch.long), 9, 10)
    assert (drawn.sort(1).values == torch.arange(1, 10)).all()                    # all others, and never the true one
    published = other_classes(range(200), torch.zeros(200, dtype=torch.long), 8, 10, 'published')
    assert (published.sort(1).values == torch.arange(8)).all()                    # the last two never, the true one as well
    pixels = pictures(4).sigmoid()
    alone = noise_references(pixels[1:2], seeds[1:2], 3, same).draw(pixels[1:2], [2])
    assert torch.equal(alone, noise_references(pixels[:3], seeds, 3, same).draw(pixels[:3], [0, 2])[1:, 1:2])


# ---- bad input

x2, r2 = pictures(2), torch.zeros(2, 3, *SIZE, dtype=torch.float64)

@pytest.mark.parametrize('what, says', [
    (lambda: ReferencePath(r2[0], 5), r'references must be a tensor \(B, R, C, H, W\)'),
    (lambda: ReferencePath(r2[:, :0]), 'there are 0 references'),
    (lambda: ReferencePath(References(0, None)), 'there are 0 references'),
    (lambda: ReferencePath('noise'), "not 'noise'"),
    (lambda: ReferencePath(r2, 0), 'k is 0'),
    (lambda: ReferencePath(r2, 2.5), 'k is 2.5'),
    (lambda: ReferencePath(r2, 5, torch.rand(2, 3, 4)), r'alphas of shape \(2, 3, 4\)'),
    (lambda: maps(x2, ReferencePath(r2[:1])), 'do not fit images'),
    (lambda: maps(x2, ReferencePath(r2[..., :3])), 'do not fit images'),
    (lambda: maps(x2, ReferencePath(r2*torch.nan)), 'NaN'),
    (lambda: maps(x2, ReferencePath(r2), steps=(8,)), 'has 15 points'),
    (lambda: maps(x2, ReferencePath(r2), [trapezoid]), "needs the gradient at a segment's end"),
    (lambda: maps(x2, ReferencePath(r2, 1), [idgi]), 'needs the change of the score'),
    (lambda: maps(x2, StraightPath(), [Mean(True)], steps=(8,)), 'squares the mean gradient'),
    (lambda: maps(x2, BlurPath(), [Mean(True)], steps=(8,)), 'squares the mean gradient'),
    (lambda: AdversarialPath(torch.zeros(2, 0, dtype=torch.long)), 'L at least 1'),
    (lambda: AdversarialPath(torch.zeros(2, 2)), 'classes must be indices'),
    (lambda: AdversarialPath(torch.zeros(2, 2, dtype=torch.long), 0), 'steps is 0'),
    (lambda: AdversarialPath(torch.zeros(2, 2, dtype=torch.long), epsilon=0.), 'epsilon is 0'),
    (lambda: maps(x2, AdversarialPath(torch.zeros(1, 2, dtype=torch.long)), [Mean()]), 'classes of 1 images'),
    (lambda: maps(x2, AdversarialPath(torch.full((2, 2), 7)), [Mean()]), '7'),
    (lambda: maps(x2, AdversarialPath(torch.zeros(2, 2, dtype=torch.long)), [idgi]), 'needs the change of the score'),
    (lambda: other_classes([1], torch.tensor([0]), 1, 1), 'of 1 classes 0 can be drawn'),
    (lambda: other_classes([1], torch.tensor([0]), 10, 10), 'of 10 classes 9 can be drawn'),
    (lambda: other_classes([1], torch.tensor([0]), 9, 10, 'published'), 'of 10 classes 8 can be drawn'),
    (lambda: other_images([1], 3, 0), 'no training images'),
    (lambda: diffid(NET, x2, classes(2), x2, unit='patch'), "unit is 'patch'"),
    (lambda: diffid(NET, x2, classes(2), x2[:1]), 'does not fit images'),
    (lambda: diffid(NET, x2, classes(2), x2*torch.nan), 'contains NaN')])
def test_what_cannot_be_is_refused_in_words(what, says):
    with pytest.raises(InputError, match=says): what()


def test_logit_ratios_are_guarded():
    class Negative(nn.Module):
        def forward(self, x): return x.flatten(1)[:, :5]*0 - 1
    found = diffid(Negative(), x2, classes(2), x2)
    assert found.ratio.isnan().all() and found.logits.eq(-1).all() and found.by_logit.isnan().all()
