"Metrics on cases whose answer is known by hand, and against plain transcriptions."
from io import BytesIO

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy.interpolate import interp1d
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method.information import CODECS, CURVES, area, compressed_sizes, excluded, information_curve, information_curves
from idgi_repro.method.metrics import (concentration, distance, energy_inside, insertion, patchiness, pointing, ranks, stability,
                                       step_lengths)
from idgi_repro.method.paths import BlurPath, StraightPath

SIDE = 176     # MS-SSIM needs more than 160


class Bright(nn.Module):
    "Two classes; the second's logit grows with the mean brightness of the left half."
    def forward(self, x):
        s = 40*x[..., :x.shape[-1]//2].mean((1, 2, 3)) - 8
        return torch.stack([-s/2, s/2], 1)


@pytest.fixture(scope='module')
def case():
    "A picture that is bright and detailed on the left, its dull version, and maps: perfect, reversed, constant."
    g = torch.Generator().manual_seed(0)
    pixels = .1 + .1*torch.rand(1, 3, SIDE, SIDE, generator=g)
    pixels[..., :SIDE//2] += .6*torch.rand(1, 3, SIDE, SIDE//2, generator=g)
    dull = torch.full_like(pixels, .1)
    perfect = pixels.sum(1)
    return pixels, dull, torch.stack([perfect, -perfect, torch.zeros_like(perfect)])


def curves(case, **kw):
    pixels, dull, maps = case
    return information_curves(Bright(), pixels, dull, maps.unbind(), torch.tensor([1]), lambda v: v, **kw)


def test_a_perfect_map_its_reverse_and_a_constant(case):
    pixels, dull, maps = case
    score = insertion(Bright(), pixels, maps.unbind(), torch.tensor([1]), torch.zeros(1)).score[:, 0]
    assert score[0] > score[2] > score[1]
    found = curves(case)
    # MS-SSIM rises with the detail that the perfect map shows first, so there the order is another
    for c in ('sic_entropy', 'aic_entropy'):
        a = area(getattr(found, c))[:, 0]
        assert a[0] > a[2] > a[1], c
    assert found.excluded() == ['']


def test_ties_are_broken_in_reading_order_every_time(case):
    constant = torch.zeros(1, SIDE, SIDE)
    assert (ranks(constant).flatten() == torch.arange(SIDE*SIDE)).all()
    a, b = curves(case), curves(case, batch_size=5)
    assert torch.equal(a.bytes, b.bytes) and torch.allclose(a.prob, b.prob, atol=1e-6)


def test_every_codec_is_pillows(case):
    pixels = case[0]
    for name, options in CODECS.items():
        file = BytesIO()
        Image.fromarray((pixels[0]*255).byte().permute(1, 2, 0).numpy()).save(file, **options)
        assert compressed_sizes(pixels, name)().tolist() == [len(file.getvalue())]
    assert (curves(case, codec='webp').bytes != curves(case).bytes).any()
    with pytest.raises(InputError, match='gif'): curves(case, codec='gif')


@pytest.mark.parametrize('prob, size, reasons', [
    ([.1, .5, .79], [1, 2, 3], ['last value']), ([.9, .5, .9], [1, 2, 3], ['no rise']), ([.95, .5, .9], [1, 2, 3], ['no rise']),
    ([.1, .5, .9], [3, 2, 3], ['bytes']), ([.5, .5, .5], [3, 3, 3], ['last value', 'no rise', 'bytes']), ([.1, .5, .8], [1, 2, 3], [])])
def test_the_three_reasons_for_exclusion(prob, size, reasons):
    x, y = torch.tensor(size, dtype=torch.double), torch.tensor(prob, dtype=torch.double)
    assert [k for k, v in excluded(x, y, True).items() if v] == reasons
    assert bool(information_curve(x, y, True).isnan().all()) == bool(reasons)
    assert 'bytes' not in excluded(x, y, False) and not excluded(x, y, False)['image too small']
    lost = x.where(x < 3, torch.nan)
    assert excluded(lost, y, False)['image too small'] and information_curve(lost, y, False).isnan().all()


def plain(x, y, entropy):
    "METHODS.md, one curve at a time."
    x, y = np.asarray(x, float), np.asarray(y, float)
    if y[-1] < .8 or y[0] >= y[-1] or entropy and x[0] >= x[-1]: return np.full(101, np.nan)
    if entropy: x = np.clip((x - x[0])/(x[-1] - x[0]), 0, 1)
    y = np.maximum.accumulate(np.clip((y - y[0])/(y[-1] - y[0]), 0, 1))
    return np.append(interp1d(np.r_[0, x], np.r_[0, y])(np.arange(100)/100), 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=25, max_size=25), st.lists(st.integers(0, 20), min_size=25, max_size=25), st.booleans())
def test_curves_are_scipys_also_where_points_share_their_information(x, y, entropy):
    x = np.array([*x[:-1], 10])*(100 if entropy else .1)
    y = np.array(y)/20
    ours, theirs = information_curve(torch.tensor(x)[None], torch.tensor(y)[None], entropy)[0].numpy(), plain(x, y, entropy)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize('side', [32, 144])
def test_small_pictures_have_no_msssim(side):
    "Their curves are not defined, and they say why; nothing else is lost."
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = information_curves(Bright(), pixels, torch.zeros_like(pixels), pixels.sum(1), torch.tensor([1]), lambda v: v)
    assert found.msssim.isnan().all() and found.bytes.gt(0).all() and found.sic_msssim.shape == (1, 101)
    for c in CURVES: assert bool(getattr(found, c).isnan().all()) == ('msssim' in c), c
    assert found.excluded() == ['MS-SSIM: image too small']


def test_maps_that_do_not_fit(case):
    pixels, dull, maps = case
    for wrong, message in (([*maps[..., 1:]], 'does not fit'), ([*maps*torch.nan], 'NaN'), (maps, 'list')):
        with pytest.raises(InputError, match=message): information_curves(Bright(), pixels, dull, wrong, torch.tensor([1]), lambda v: v)


def test_stability_is_the_mean_over_pixels_of_the_squared_difference():
    rng = np.random.default_rng(0)
    a, b = rng.normal(.5, 1, (2, 3, 8, 8))
    found = stability(torch.tensor(a), torch.tensor(b))
    for i in range(3):
        assert found.signed[i].item() == pytest.approx(((a[i]/a[i].sum() - b[i]/b[i].sum())**2).mean())
        assert found.l1[i].item() == pytest.approx(((a[i]/abs(a[i]).sum() - b[i]/abs(b[i]).sum())**2).mean())
    b[1] -= b[1].mean()                                        # a map that sums to nothing
    found = stability(torch.tensor(a), torch.tensor(b))
    assert found.near_zero.tolist() == [False, True, False] and found.signed[1] > 1e6*found.signed[0] and found.l1[1] < 1


def test_localisation_by_hand():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 1:3] = True
    m = torch.full((4, 4), -5.)
    m[1, 1], m[0, 0], m[3, 3] = 3., 1., 2.
    assert energy_inside(m, mask).item() == pytest.approx(.5) and pointing(m, mask)
    m[3, 3] = 4.
    assert energy_inside(m, mask).item() == pytest.approx(3/8) and not pointing(m, mask)
    assert energy_inside(-torch.ones(4, 4), mask).isnan()
    assert not pointing(torch.zeros(4, 4), mask), 'of equal pixels the first in reading order counts'


def test_patchiness_is_morans_i():
    z = np.random.default_rng(0).normal(size=(5, 6))
    z[1:3, 2:5] += 3
    d, total, pairs = z - z.mean(), 0, 0
    for i in range(5):
        for j in range(6):
            for a, b in ((i+1, j), (i-1, j), (i, j+1), (i, j-1)):
                if 0 <= a < 5 and 0 <= b < 6: total, pairs = total + d[i, j]*d[a, b], pairs + 1
    assert patchiness(torch.tensor(z)).item() == pytest.approx(z.size/pairs*total/(d**2).sum())
    assert patchiness(torch.tensor(7*z + 3)).item() == pytest.approx(patchiness(torch.tensor(z)).item())


def test_distance_and_concentration():
    a = torch.rand(2, 4, 4)
    assert distance(a, a).tolist() == [0, 0] and torch.allclose(distance(3*a, a), torch.tensor(2., dtype=torch.double))
    assert distance(a, torch.zeros_like(a)).isinf().all() or distance(a, torch.zeros_like(a)).isnan().all()
    lengths = torch.tensor([[1., 4.], [1., 0.], [1., 0.], [1., 0.], [1., 0.]])
    assert concentration(lengths, .2).tolist() == [pytest.approx(.2), 1.] and concentration(lengths, .3)[0].item() == pytest.approx(.3)
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(step_lengths(StraightPath(0.), x, 7).sum(0), x.double().flatten(1).norm(dim=1), rtol=1e-5)
    assert (step_lengths(BlurPath(), x, 20)[:2] > step_lengths(BlurPath(), x, 20)[-2:]).all()
