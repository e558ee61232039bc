"Where the paths go: against plain transcriptions of METHODS.md, step by step and point by point."
import numpy as np, pytest, torch
from torchvision.transforms.functional import gaussian_blur

from idgi_repro.errors import InputError
from idgi_repro.method.guided import GuidedPath, guided_step
from idgi_repro.method.paths import BlurPath, Curve, Look, StraightPath, blur_matrix
import reference
from reference import pictures

PATHS = [StraightPath(.3), GuidedPath(.3), BlurPath(2.)]
def name(path): return type(path).__name__

def walk(path, x, n, protocol='corrected', block=8):
    "The points of a walk over a score whose gradient is known: f = |x|²/2, g = x."
    def value(xs): return xs.square().sum((-3, -2, -1))/2
    return list(path.visit(Look(lambda xs, c=None: (value(xs), xs), value, block), x, n, protocol))


@pytest.mark.parametrize('n', [1, 2, 7])
@pytest.mark.parametrize('path', PATHS, ids=name)
def test_a_corrected_walk_has_n_segments_from_end_to_end(path, n):
    x = pictures(2)
    points, (start, end) = walk(path, x, n), path.ends(x)
    first, last = (points[0].x, points[-1].x)[::path.sign]
    assert len(points) == n+1 and all(p.f is not None for p in points) and all(p.g is not None for p in points[:-1])
    assert torch.allclose(first, start, atol=1e-12) and torch.allclose(last, end, atol=1e-12)
    assert not torch.allclose(start, end, atol=.1)


@pytest.mark.parametrize('path', PATHS, ids=name)
@pytest.mark.parametrize('block', [1, 3, 100])
def test_how_many_points_share_a_pass_does_not_move_them(path, block):
    x = pictures(2)
    for p, q in zip(walk(path, x, 6, block=block), walk(path, x, 6), strict=True):
        assert p.t == q.t and torch.allclose(p.x, q.x, atol=1e-14) and torch.allclose(p.f, q.f)


def test_the_published_line_takes_n_points_with_both_ends():
    x = pictures(1)
    points = walk(StraightPath(-1.), x, 8, 'published')
    assert len(points) == 8 and all(p.g is not None for p in points)
    for p, a in zip(points, np.linspace(0, 1, 8)): assert torch.allclose(p.x, -1 + a*(x+1), atol=1e-14)


@pytest.mark.parametrize('path', [GuidedPath(.3), BlurPath(2.)], ids=name)
def test_the_published_protocol_does_not_look_at_the_last_point_of_guided_and_blur_paths(path):
    points = walk(path, pictures(1), 4, 'published')
    assert len(points) == 5 and points[-1].f is None and all(p.f is not None for p in points[:-1])


# -- blur

@pytest.mark.parametrize('sigma', [.01, .12, .3, 1., 2.5, 5.7])
@pytest.mark.parametrize('shape', [(24, 24), (25, 40), (60, 24)], ids=str)
def test_blur_is_torchvisions_gaussian_blur(sigma, shape):
    x, size = pictures(1, 2, *shape), 2*round(4*sigma) + 1
    got = BlurPath(10.).at(x, torch.tensor([sigma/10], dtype=torch.float64))[0]
    assert torch.allclose(got, gaussian_blur(x, [size, size], [sigma, sigma]), atol=1e-13)


def test_no_blur_is_the_image_itself():
    x = pictures(1)
    assert torch.equal(BlurPath().at(x, torch.zeros(1, dtype=torch.float64))[0], x)


@pytest.mark.parametrize('size', [1, 2, 5, 224])
@pytest.mark.parametrize('sigma', [0., .7, 50.])
def test_blur_keeps_a_constant_even_where_the_kernel_is_wider_than_the_image(size, sigma):
    m = blur_matrix(size, sigma)
    assert m.shape == (size, size) and (m >= 0).all() and torch.allclose(m.sum(1), torch.ones(size, dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize('t', [0., .4])
def test_blur_velocity_is_the_papers_difference_quotient(t):
    x, sigma = pictures(1, 2, 24, 30), 5*t
    expected = 5*(reference.blurred(x, sigma + .01) - reference.blurred(x, sigma))/.01
    got = BlurPath(5.).velocity(x, torch.tensor([t], dtype=torch.float64))[0]
    assert torch.allclose(got, expected, atol=1e-9) and (t == 0 or got.abs().max() > 1e-2)


# -- guided

@pytest.mark.parametrize('fraction,max_dist', [(.5, 1.), (.25, .02), (.1, .3), (1., .5), (.5, 0.)])
@pytest.mark.parametrize('n', [1, 5, 16])
def test_each_guided_step_is_the_methods_step(fraction, max_dist, n):
    "On gradients with ties and zeros, and features that are equal in image and baseline."
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 3, 150))
    start[:, ::7] = end[:, ::7]
    p = start
    for s in range(n):
        g = rng.normal(size=p.shape).round(1)
        args = (torch.from_numpy(v) for v in (p, g, start, end))
        q = guided_step(*args, (s+1)/n, fraction, max_dist).numpy()
        expected = [reference.guided_step(*v, s, n, fraction, max_dist) for v in zip(p, g, start, end)]
        assert abs(q - expected).max() < 1e-9 and abs(q - p).max() > 1e-3
        p = q
    assert abs(p - end).max() < 1e-6


def test_a_guided_step_leaves_its_arguments_as_they_were():
    p, g, start, end = torch.rand(4, 2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = [v.clone() for v in (p, g, start, end)]
    guided_step(start, g, start, end, .5, .5, 1.)
    assert all(torch.equal(*v) for v in zip(before, (p, g, start, end)))


def test_guided_covers_the_same_share_of_the_distance_in_every_step():
    x = pictures(3)
    for s, p in enumerate(walk(GuidedPath(0.), x, 8)):
        left = (x - p.x).abs().sum((1, 2, 3))/x.abs().sum((1, 2, 3))
        assert torch.allclose(left, torch.full_like(left, 1 - s/8), atol=1e-6)


@pytest.mark.parametrize('max_dist', [0., .02, .3])
def test_guided_stays_within_max_dist_of_the_straight_line(max_dist):
    x = pictures(2)
    for s, p in enumerate(walk(GuidedPath(0., .25, max_dist), x, 8)):
        assert ((p.x - s/8*x).abs() <= max_dist*x.abs() + 1e-6).all()


def test_guided_moves_features_with_small_gradients_first():
    x, g = torch.ones(1, 4, dtype=torch.float64), torch.tensor([[3., -1, 2, -4]], dtype=torch.float64)
    assert guided_step(0*x, g, 0*x, x, .25, .25).tolist() == [[0, 1, 0, 0]]


def test_guided_in_pixel_space_hands_the_network_normalised_images():
    mean, std, x = (.1, .2, .3), (.5, .25, 2.), pictures(1)
    seen, path = [], GuidedPath(x*0 - 1, normalize=(mean, std))
    def see(xs): seen.append(xs[0]); return xs.sum((-3, -2, -1)), torch.ones_like(xs)
    points = list(path.visit(Look(see, lambda xs: see(xs)[0]), x, 4, 'corrected'))
    m, s = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    assert torch.allclose(seen[0], x*0 - 1) and torch.allclose(seen[-1], x)
    assert all(torch.allclose((p.x - m)/s, v) for p, v in zip(points, seen, strict=True))
    assert torch.allclose(points[0].g,
                          (1/s).expand_as(x)), 'the corrected protocol keeps one space: the chain rule puts 1/std into the gradient'


@pytest.mark.parametrize('seed', range(3))
def test_the_published_guided_path_goes_from_exact_zeros_to_the_pixels_and_shows_float32(seed):
    "As the published code walks: the network sees each point rounded to float32 and normalised in float32, bit for bit."
    mean, std = (.485, .456, .406), (.229, .224, .225)
    m, s = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    pixels, seen = pictures(2, h=12, w=12, seed=seed).add(1).div(2).float(), []
    x, black = (pixels - m)/s, (torch.zeros(1, 3, 12, 12) - m)/s
    def see(xs): seen.append(xs[0]); return xs.square().sum((-3, -2, -1)), xs.sin()
    def points(**how): seen.clear(); return list(GuidedPath(black, normalize=(mean, std), **how).visit(Look(see, None), x, 8, 'published'))
    found = points(pixels=pixels)
    assert not found[0].x.any() and torch.equal(found[-1].x, pixels.double()) and found[0].x.dtype == torch.float64
    assert len(seen) == 8 and found[-1].f is None
    for p, v in zip(found, seen): assert v.dtype == torch.float32 and torch.equal(v, (p.x.float() - m)/s)
    again = points()
    assert not torch.equal(again[-1].x, pixels.double()), 'denormalising the image does not give back the pixels'
    assert torch.allclose(again[-1].x, pixels.double(), atol=1e-6)


def test_pixels_without_their_normalisation_are_refused():
    with pytest.raises(InputError, match='pixels are given without normalize'): GuidedPath(pixels=pictures(1))


# -- what cannot be used

@pytest.mark.parametrize('make', [StraightPath, GuidedPath], ids=lambda p: p.__name__)
@pytest.mark.parametrize('baseline,said', [(torch.zeros(1, 4, 8, 8), 'does not fit'), (torch.zeros(3, 3, 8, 8), 'does not fit'),
                                           (torch.zeros(7), 'does not fit'),
                                           (float('nan'), 'NaN'), (torch.full((1, 3, 8, 8), torch.inf), 'NaN')],
                         ids=['channels', 'batch', 'vector', 'nan', 'inf'])
def test_a_baseline_that_cannot_be_used_is_refused(make, baseline, said):
    with pytest.raises(InputError, match=said): walk(make(baseline), pictures(2), 2)


@pytest.mark.parametrize('make,said', [
    (lambda: BlurPath(0.), 'max_sigma'), (lambda: BlurPath(-1.), 'max_sigma'), (lambda: BlurPath(float('nan')), 'max_sigma'),
    (lambda: BlurPath(grad_step=0.), 'grad_step'),
    (lambda: GuidedPath(fraction=0.), 'fraction'), (lambda: GuidedPath(fraction=1.1), 'fraction'),
    (lambda: GuidedPath(max_dist=-.1), 'max_dist'), (lambda: GuidedPath(max_dist=2.), 'max_dist')],
    ids=['sigma 0', 'sigma < 0', 'sigma nan', 'grad_step 0', 'fraction 0', 'fraction > 1', 'max_dist < 0', 'max_dist > 1'])
def test_constants_that_cannot_be_used_are_refused_and_named(make, said):
    with pytest.raises(InputError, match=said): make()


def test_a_new_path_is_one_small_class():
    class Parabola(Curve):
        def at(self, x, t): return t.to(x)[:, None, None, None, None]**2*x
    x = pictures(1)
    assert torch.equal(walk(Parabola(), x, 4)[2].x, x/4) and torch.equal(Parabola().ends(x)[1], x)
