"Deletion, mass, MAS, ROAD, infidelity and max-sensitivity: by hand, by brute force, and what is refused."
import numpy as np, pytest, torch

from idgi_repro.errors import InputError
from idgi_repro.method.gradients import predict, probability
from idgi_repro.method.infidelity import infidelity, max_sensitivity
from idgi_repro.method.metrics import ranks
from idgi_repro.method.removal import _eliminated, _filled, _system, deletion, imputed, mas, mass, road

from reference import pictures, smooth

X, C = pictures(3), torch.tensor([1, 0, 4])
MAP = torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_deletion_by_brute_force():
    "Pixel by pixel, with what is left of the most salient ones rounded as insertion rounds what it shows."
    net, order = smooth(), ranks(MAP)
    curve = deletion(net, X, MAP, C, 0.).curve
    for i in range(21):
        gone = order < 64 - int(64*(20 - i)/20)
        p = probability(predict(net, torch.where(gone[:, None], 0., X)), C)
        assert torch.allclose(curve[:, i], p)

@pytest.mark.parametrize('of', [lambda m: deletion(smooth(), X, m, C, 0.).score, lambda m: road(smooth(), X, m, C, (.2, .7)).score,
                                lambda m: mass(m, torch.tensor([0, 9, 64]))], ids=['deletion', 'road', 'mass'])
def test_a_list_of_maps_gives_each_its_own(of):
    both = of([MAP, MAP.flip(1)])
    assert torch.allclose(both[0], of(MAP)) and torch.allclose(both[1], of(MAP.flip(1)))

@pytest.mark.parametrize('batch_size', [1, 2, 64])
def test_batches_and_shards_change_nothing(batch_size):
    whole = road(smooth(), X, MAP, C, (.3, .8), seeds=(5, 6, 7))
    part = road(smooth(), X[1:], MAP[1:], C[1:], (.3, .8), seeds=(6, 7), batch_size=batch_size)
    assert torch.allclose(whole.score[1:], part.score)

@pytest.mark.parametrize('share', [.05, .5, .95])
def test_imputation_solves_its_equations(share):
    rng = np.random.default_rng(0)
    image, gone = rng.random((3, 9, 11)), rng.random((9, 11)) < share
    gone[0, 0] = False
    y, x = _eliminated(gone)
    matrix, right = _system(image, gone, y, x)
    found = _filled(image, gone)
    assert np.allclose(found[:, y, x].T, np.linalg.solve(matrix.toarray(), right))
    assert (found[:, ~gone] == image[:, ~gone]).all() and image.min() <= found.min() and found.max() <= image.max()

def test_imputation_takes_the_mean_of_known_neighbours():
    image, gone = torch.arange(9.).view(1, 1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool)
    gone[0, 1, 1] = gone[0, 0, 0] = True
    out = imputed(image, gone)[0, 0].double()
    corner, middle = out[0, 0], out[1, 1]
    assert corner.item() == pytest.approx(((1 + 3)/6 + middle.item()/12)/(5/12), rel=1e-5)             # three of eight lie in the image
    assert middle.item() == pytest.approx((1 + 3 + 5 + 7)/6 + (corner.item() + 2 + 6 + 8)/12, rel=1e-5)

@pytest.mark.parametrize('curve, share, gone, expected', [
    ((0, .5, 1), (0, .5, 1), False, .5), ((0, 1, 1), (0, 1, 1), False, .75), ((0, .5, 1), (0, 1, 1), False, .25),
    ((1, .5, 0), (0, .5, 1), True, .5),
    ((1, 0, 0), (0, 1, 1), True, .25), ((1, .5, 0), (0, 1, 1), True, .75), ((.2, .9, .1, .6), (0, 1/3, 2/3, 1), False, .5),
    ((.3, .3, .3), (0, .5, 1), False, .5)])
def test_mas_by_hand(curve, share, gone, expected):
    v = mas(torch.tensor(curve, dtype=torch.float64), torch.tensor(share, dtype=torch.float64), gone)
    assert v.item() == pytest.approx(expected)

def test_a_map_of_zeros_has_no_mass():
    share = mass(0*MAP, torch.tensor([0, 64]))
    assert share.isnan().all() and mas(torch.rand(3, 2), share).isnan().all()

def test_infidelity_of_the_gradient_of_a_linear_score_is_none():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).double()
    w = net[1].weight[C].detach().view(3, 3, 8, 8)
    score = lambda z, c: z.gather(1, c[:, None])[:, 0]
    assert infidelity(net, X, C, [w, -3*w], score=score).max() < 1e-12
    assert infidelity(net, X, C, -3*w, score=score, scaled=False).min() > 1e-8

REFUSED = [('values down to', lambda: mass(-MAP, torch.tensor([1]))), ('does not fit', lambda: deletion(smooth(), X, MAP[:2], C, 0.)),
           ('no pixel left', lambda: imputed(X, torch.ones(3, 8, 8, dtype=torch.bool))),
           ('fractions', lambda: road(smooth(), X, MAP, C, (1.,))),
           ('fractions', lambda: road(smooth(), X, MAP, C, ())), ('NaN', lambda: road(smooth(), X, MAP*torch.nan, C)),
           ('classes', lambda: road(smooth(), X, MAP, 7)), ('changes of shape', lambda: infidelity(smooth(), X, C, X, X)),
           ('draws is 0', lambda: infidelity(smooth(), X, C, X, draws=0)), ('radius is -1', lambda: max_sensitivity(lambda v: v, X, -1)),
           ('draws is 0', lambda: max_sensitivity(lambda v: v, X, draws=0)),
           ('together 0', lambda: max_sensitivity(lambda v: v, X, together=0))]

@pytest.mark.parametrize('said, call', REFUSED)
def test_what_cannot_be(said, call):
    with pytest.raises(InputError, match=said): call()
