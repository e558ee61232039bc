"Numbers out of range, or of another meaning: refused in words, never taken as they are."
import numpy as np, pytest, torch

from idgi_repro.errors import InputError
from idgi_repro.method.attribution import attribute, saliency
from idgi_repro.method.diffid import diffid_of_maps
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.information import compressed_sizes, information_curves
from idgi_repro.method.metrics import concentration, distance, energy_inside, insertion, patchiness, pointing, stability, step_lengths
from idgi_repro.method.paths import BlurPath, StraightPath
from idgi_repro.method.sensitivity import sensitivity_n
from reference import pictures, smooth

B = 3                                        # as many images as channels, so that an attribution could pass for maps
PIXELS = (pictures(B) + 1)/2
MAPS, MASK = pictures(B, 1)[:, 0], pictures(B, 1, seed=1)[:, 0] > 0
TARGET = torch.arange(B)

def curves(pixels=PIXELS, blurred=0*PIXELS, maps=MAPS, target=TARGET, **how):
    return information_curves(smooth(), pixels, blurred, maps, target, lambda v: 2*v - 1, **how)
def spoiled(v, value): v = v.clone(); v[1, 1, 2, 3] = value; return v
def resized(v): return torch.nn.functional.interpolate((v > .5).to(v), scale_factor=2, mode='bicubic')


ODD = {'0 to 255': 255*PIXELS, 'a black one but 255': 0*PIXELS + 255, 'normalised': 2*PIXELS - 1, 'overshoot': resized(PIXELS)[..., :8, :8],
       'one pixel above': spoiled(PIXELS, 1.02), 'one pixel below': spoiled(PIXELS, -.02),
       'nan': spoiled(PIXELS, torch.nan), 'all nan': 0*PIXELS/0, 'inf': spoiled(PIXELS, torch.inf), '-inf': spoiled(PIXELS, -torch.inf),
       'float32': 1.02*torch.ones(B, 3, 8, 8)}
USES = {'pixels': lambda v: curves(pixels=v), 'blurred': lambda v: curves(blurred=v), 'sizes': compressed_sizes,
        'guided': lambda v: GuidedPath(normalize=((.5,)*3, (.5,)*3), pixels=v)}

@pytest.mark.parametrize('pixels', ODD.values(), ids=list(ODD))
@pytest.mark.parametrize('use', USES.values(), ids=list(USES))
def test_pixels_out_of_range_are_refused_with_their_range(use, pixels):
    with pytest.raises(InputError, match='lie between.*clamp|NaN or infinity'): use(pixels)

def test_the_range_is_named():
    with pytest.raises(InputError, match='pixels lie between 255 and 255'): compressed_sizes(0*PIXELS + 255)
    with pytest.raises(InputError, match='the blurred pixels lie between -1 and -1'): curves(blurred=-1)

@pytest.mark.parametrize('pixels', [(255*PIXELS).byte(), PIXELS.numpy(), PIXELS[:2, 0], PIXELS[:0], PIXELS[:, :1], PIXELS.long(), None,
                                    PIXELS[0, 0]], ids=['bytes', 'array', 'no channels', 'none', 'grey', 'integers', 'None', 'plane'])
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(InputError): curves(pixels=pixels)
    with pytest.raises(InputError): compressed_sizes(pixels)

@pytest.mark.parametrize('off', [0, 1e-7, 5e-5])
def test_rounding_is_not_out_of_range_and_does_not_wrap(off):
    white, black = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    assert compressed_sizes(torch.stack([white + off, black - off]))().tolist() == compressed_sizes(torch.stack([white, black]))().tolist()

@pytest.mark.parametrize('blurred', [0, 0., .5, (0.,), PIXELS[:1], PIXELS.numpy(), torch.tensor(0.), np.float32(0), PIXELS.float()],
                         ids=lambda b: type(b).__name__)
def test_blurred_pixels_may_be_what_a_baseline_may_be(blurred):
    whole = torch.as_tensor(blurred[0] if isinstance(blurred, tuple) else blurred, dtype=PIXELS.dtype).expand_as(PIXELS)
    assert torch.equal(curves(blurred=blurred).prob, curves(blurred=whole).prob)


# -- maps

A = attribute(smooth(), pictures(B), TARGET, StraightPath(), (2,))['idgi', 2]
SCORES = {'insertion': lambda m: insertion(smooth(), pictures(B), m, TARGET, 0.).curve, 'information': lambda m: curves(maps=m).bytes,
          'stability': lambda m: stability(m, m).l1, 'stability, second': lambda m: stability(MAPS, m).l1,
          'diffid': lambda m: diffid_of_maps(smooth(), pictures(B), TARGET, m).logits,
          'sensitivity': lambda m: sensitivity_n(smooth(), pictures(B), TARGET, m, fractions=(.5,)),
          'energy': lambda m: energy_inside(m, MASK), 'pointing': lambda m: pointing(m, MASK), 'patchiness': patchiness,
          'distance': lambda m: distance(m, m), 'reference': lambda m: distance(MAPS, m)}
scores = pytest.mark.parametrize('score', SCORES.values(), ids=list(SCORES))

@pytest.mark.parametrize('a', [A, A.numpy(), A[None], [A], [A, A], (A, A), A[:2], A.expand(2, *A.shape)],
                         ids=['tensor', 'array', 'five', 'list', 'two', 'tuple', 'fewer', 'stacked'])
@scores
def test_an_attribution_is_no_map(score, a):
    with pytest.raises(InputError, match=r'looks like an attribution.*saliency\(attribution\)'): score(a)

@scores
def test_its_saliency_is(score): assert len(score(saliency(A))) == B

@pytest.mark.parametrize('maps', [[], [MAPS, MAPS[:, 1:]], [MAPS, MAPS[0, 0]], torch.zeros(8), 'map', None, [None]],
                         ids=['none', 'unlike', 'line', 'row', 'text', 'None', 'list of None'])
@scores
def test_maps_that_are_none_or_unlike_are_refused(score, maps):
    with pytest.raises(InputError, match='map'): score(maps)

@pytest.mark.parametrize('maps', [MAPS[:2], MAPS[..., 1:], MAPS[:, :4], MAPS[0], [MAPS[0]], [MAPS, MAPS[:2]], MAPS.mT[:, :7]],
                         ids=['fewer', 'narrow', 'low', 'one', 'list of one', 'unlike', 'turned'])
@pytest.mark.parametrize('name', ['insertion', 'information', 'diffid', 'sensitivity'])
def test_maps_that_do_not_fit_the_images_are_refused(name, maps):
    with pytest.raises(InputError, match=r'does not fit; maps must be \(3, 8, 8\) each'): SCORES[name](maps)

@pytest.mark.parametrize('wrap', [list, tuple, lambda v: [m.numpy() for m in v], lambda v: [m.clone().requires_grad_() for m in v]],
                         ids=['list', 'tuple', 'arrays', 'graph'])
@pytest.mark.parametrize('name', ['insertion', 'information', 'diffid', 'sensitivity', 'energy', 'pointing', 'patchiness'])
def test_several_maps_are_a_list(name, wrap):
    found, score = SCORES[name](wrap([MAPS, -MAPS])), SCORES[name]
    assert torch.equal(found, torch.stack([score(MAPS), score(-MAPS)])) and not found.requires_grad

@pytest.mark.parametrize('places', [MAPS.long()[:2], MAPS.long()[None], MAPS.long()[..., 1:]])
def test_places_of_other_maps_are_refused(places):
    with pytest.raises(InputError, match='places'): curves(places=places)


# -- masks, and other numbers

@pytest.mark.parametrize('mask', [MASK.int(), MASK.byte(), MASK.double(), MASK.numpy(), MASK[0], MASK[0].numpy().astype(int)],
                         ids=['int', 'byte', 'float', 'array', 'one', 'one array'])
def test_masks_say_yes_or_no(mask):
    whole = torch.as_tensor(mask).bool().expand_as(MASK)
    assert torch.equal(energy_inside(MAPS, mask), energy_inside(MAPS, whole)) and torch.equal(pointing(MAPS, mask), pointing(MAPS, whole))

@pytest.mark.parametrize('said,mask', [('255', MASK*255), ('2', MASK.int()*2), ('-1', -MASK.int()), ('nan', MASK*torch.nan), ('0.5',
    MASK*.5), ('does not fit', MASK[:2]), ('does not fit', MASK[:, :4]), ('does not fit', MASK[0, 0]),
                                       ('does not fit', MASK[None]), ('mask is', 'here')])
@pytest.mark.parametrize('measure', [energy_inside, pointing])
def test_other_masks_are_refused(measure, said, mask):
    with pytest.raises(InputError, match=said): measure(MAPS, mask)

@pytest.mark.parametrize('go', [lambda: concentration(torch.ones(10, 1), 10), lambda: concentration(torch.ones(10, 1),
    0), lambda: concentration(torch.ones(10, 1), torch.nan), lambda: BlurPath(torch.inf), lambda: BlurPath(torch.nan),
                                lambda: BlurPath(-1.), lambda: BlurPath(1., torch.inf), lambda: BlurPath(1., torch.nan),
                                lambda: step_lengths(StraightPath(), PIXELS, 0), lambda: step_lengths(StraightPath(), PIXELS, -3),
                                lambda: GuidedPath(fraction=torch.nan),
                                lambda: GuidedPath(max_dist=2.), lambda: stability(MAPS, MAPS[:2]), lambda: distance(MAPS, MAPS.mT[:, :7])])
def test_other_numbers_out_of_range(go):
    with pytest.raises(InputError): go()
