"Re-calibrated attributions: the published code's maps and curves, properties of paths and rules, bad input."
import pickle, sys
import numpy as np, pytest, torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
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
from idgi_repro.papers.recalibration import PAPER
from idgi_repro.report.results import read
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.images import Embedded
from idgi_repro.study.shard import Shard, run
from reference import pictures as images, smooth

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
    if golden.of == 'imagenet':
        pytest.skip('the walk of its one photograph is chaotic: ours in single and in double precision are .78 apart')
    path = lambda dtype: AdversarialPath(golden('classes/agi'), golden('R_k_steps').tolist()[2], normalize=(golden.mean, golden.std))
    golden.meets([f'map/agi/{rule}' for rule in RULES], path, [rule() for rule in RULES.values()], 'published', better_half=True)


@pytest.mark.parametrize('rule', ['vanilla', 'valid_ip'])
@pytest.mark.parametrize('key, unit, protocol', [('element', 'value', 'corrected'), ('pixel', 'pixel', 'corrected'),
                                                 ('published', 'value', 'published')])
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


PATHS = dict(noise=lambda x, rows: ReferencePath(noise_references(x.sigmoid(), range(9)[rows], 3, same), 2),
             others=lambda x, rows: ReferencePath(pictures(12).view(4, 3, *SIZE)[rows], 2, random_alphas(range(4)[rows], 3, 2)),
             classes=lambda x, rows: AdversarialPath(torch.tensor([[1, 2, 3], [0, 2, 4], [3, 1, 0], [4, 0, 2]])[rows], 3,
                                                     normalize=(.4, .5)),
             accumulated=lambda x, rows: AdversarialPath(torch.tensor([[1, 2, 3], [0, 2, 4], [3, 1, 0], [4, 0, 2]])[rows], 3,
                                                         normalize=(.4, .5), cumulative=True))

@pytest.mark.parametrize('name', PATHS)
def test_every_path_is_of_its_images_whatever_the_batch(name):
    x, rules = pictures(4), [Mean(), ValidReferences(), ValidInterpolations()]
    whole = maps(x, PATHS[name](x, slice(4)), rules)
    for size in (1, 3, 5, 8): assert alike(whole, maps(x, PATHS[name](x, slice(4)), rules, batch_size=size))
    for rows in (slice(0, 1), slice(1, 4)):
        part = attribute(NET, x[rows], classes(4)[rows], PATHS[name](x[rows], rows), rules=rules, score=logit)
        assert alike(part, {k: a[rows] for k, a in whole.items()})


@fast
@given(st.permutations(range(4)), st.booleans())
def test_the_order_of_adversarial_classes_changes_nothing(order, cumulative):
    x, towards = pictures(2), torch.tensor([[1, 2, 3, 4], [0, 2, 3, 4]])
    rules = [Mean(), ValidReferences(), ValidInterpolations()]
    path = lambda c: AdversarialPath(c, 3, normalize=(.4, .5), cumulative=cumulative)
    assert alike(maps(x, path(towards), rules), maps(x, path(towards[:, order]), rules))


def peak(go):
    "The largest sum of bytes that tensors held at once."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: go()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns())
    assert events
    return max(np.cumsum([e.nbytes() for e in events]))

def lines(R, k): return ReferencePath(uniform_references([1, 2], R, same), k)
def steps(L, m): return AdversarialPath(other_classes([1, 2], torch.tensor([1, 2]), L, 50), m, normalize=(.5, .5))

@pytest.mark.parametrize('path, few, many', [(lines, (8, 2), (80, 2)), (lines, (8, 2), (8, 40)), (lines, (8, 1), (80, 1)),
                                             (steps, (4, 5), (40, 5)), (steps, (4, 5), (4, 40))])
def test_memory_is_flat_in_lines_and_points(path, few, many):
    net, x = smooth(classes=50), images(2, h=32, w=32)
    go = lambda n: attribute(net, x, [1, 2], path(*n), rules=[Mean(), ValidReferences(), ValidInterpolations()], batch_size=8)
    assert peak(lambda: go(many)) < 1.03*peak(lambda: go(few))


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


@pytest.mark.parametrize('alphas', [[0.], [0., .5], [0., .5, 1.], [0., .3, .9]], ids=str)
def test_a_reference_equal_to_the_image_adds_to_counts_only(alphas):
    """A point between the two is the image where its alpha is exact in binary, else but for rounding; the line's displacement is zero
    always."""
    x, r, k = pictures(2), torch.rand(2, 3, *SIZE, dtype=torch.float64), len(alphas)
    path = lambda r: ReferencePath(r, k, torch.tensor(alphas, dtype=torch.float64).expand(2, r.shape[1], k))
    few, more = (list(maps(x, path(v)).values()) for v in (r, torch.cat([r, x[:, None]], 1)))
    lines = torch.stack([maps(x, path(r[:, i:i+1]), [Mean()])['mean', k] for i in range(3)])
    points = torch.stack([maps(x, ReferencePath(r[:, i:i+1], 1, torch.full((2, 1, 1), a, dtype=torch.float64)), [Points()])['points', 1]
                          for i in range(3) for a in alphas])
    for i, P in (2, lines), (4, points):
        count = (P >= 0).sum(0)
        for a, b in zip(few[i:i+2], more[i:i+2]):
            assert b.isfinite().all()
            if i == 2 or .3 not in alphas: assert torch.allclose(a*count.clamp(min=1), b*(count + len(P)//3), atol=1e-12)
            else: assert (b <= a + 1e-12).all()
    for a, b in zip(few[:2], more[:2]): assert torch.allclose(3*a, 4*b)

class Points(ValidInterpolations):
    "A single point's product."
    title = 'points'
    def add(self, sums, s): sums.total += (sums.image - s.p.x)*s.p.g


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
    assert torch.allclose(found['mean', 800], found['riemann', 800])
    assert (found['absolute', 800] >= found['riemann', 800].abs() - 1e-9).all()
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


# ---- the study

SMALL = dict(network='mini_vgg', data='embedded:20', steps=(10,), images=3, metrics=('diffid_logit', 'sensitivity'), protocol='corrected')

def test_shards_of_any_size_have_the_same_rows(tmp_path):
    methods = ('uniform', 'sg+vi', 'sq+vr', 'eg', 'eg+vi')
    found = []
    for name, parts in ('whole', [(0, 3)]), ('parts', [(0, 1), (1, 3)]):
        for start, stop in parts: run(Shard(**SMALL, methods=methods, start=start, stop=stop, out=str(tmp_path/name)), PAPER)
        found.append(read(tmp_path/name)[0].set_index(['name', 'method'])[['diffid_logit', 'sensitivity']].sort_index())
    assert len(found[0]) == 15 and (found[0] - found[1]).abs().max().max() < 5e-3


def placed(folder, classes):
    "Embedded training images in folders of classes."
    for i in range(classes):
        (folder/f'class {i}').mkdir(parents=True)
        Embedded(classes, split=1)[i].open().save(folder/f'class {i}'/f'{i}.png')
    return str(folder)

def test_a_training_set_of_other_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match='has 2 classes and the network'):
        run(Shard(**SMALL, methods=('eg',), stop=1, train=placed(tmp_path/'train', 2), out=str(tmp_path/'out')), PAPER)

def test_training_images_are_named_and_are_not_those_explained(tmp_path):
    photos = dict(SMALL, data=placed(tmp_path/'photos', 10), images=1, stop=1)
    with pytest.raises(InputError, match='name them with --train'): run(Shard(**photos, methods=('eg',), out=str(tmp_path/'out')), PAPER)
    with pytest.raises(InputError, match='images that are explained'):
        run(Shard(**photos, methods=('eg',), train=photos['data'], out=str(tmp_path/'out')), PAPER)


WHOLE = dict(data=np.zeros((4, 3072), np.uint8), labels=[0, 1, 2, 1], filenames=[b'a', b'b', b'c', b'd'])

@pytest.mark.parametrize('says, bytes_of', [
    ('is no file of CIFAR', lambda whole: whole[:len(whole)//2]), ('is no file of CIFAR', lambda whole: b''),
    ('it holds list', lambda whole: pickle.dumps([1])),
    ('which is no array', lambda whole: b'cos\nsystem\n(S"echo"\ntR.'), ('no images of 3072 bytes', lambda whole: pickle.dumps({})),
    ('no images of 3072 bytes', lambda whole: pickle.dumps(WHOLE | dict(data=WHOLE['data'][:, 1:]))),
    ('no images of 3072 bytes', lambda whole: pickle.dumps(WHOLE | dict(data=WHOLE['data'].astype(float)))), ('not as many labels',
    lambda whole: pickle.dumps(WHOLE | dict(labels=[0]))), ('not as many labels', lambda whole: pickle.dumps(WHOLE | dict(labels=None))),
    ('not as many labels', lambda whole: pickle.dumps(WHOLE | dict(filenames=[b'a']))),
    ('has the label 3; there are 3 classes', lambda whole: pickle.dumps(WHOLE | dict(labels=[0, 1, 2, 3]))),
    ("'cat', which is no number", lambda whole: pickle.dumps(WHOLE | dict(labels=[0, 1, 2, 'cat'])))])
def test_a_corrupt_batch_of_cifar_is_named(tmp_path, says, bytes_of):
    folder = tmp_path/'cifar-10-batches-py'
    folder.mkdir()
    (folder/'batches.meta').write_bytes(pickle.dumps({b'label_names': [b'x', b'y', b'z']}))
    (folder/'test_batch').write_bytes(pickle.dumps(WHOLE))
    assert len(open_images(str(tmp_path))) == 4
    (folder/'test_batch').unlink()
    (folder/'test_batch').write_bytes(bytes_of(pickle.dumps(WHOLE)))
    with pytest.raises(InputError, match=f'test_batch.*{says}'): open_images(str(tmp_path))
