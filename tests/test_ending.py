"Whatever the size of a batch, it comes to an end."
from fractions import Fraction

import numpy as np, pytest, torch

import idgi_repro as ir
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import check_batch_size, find_batch_size, predict, value_and_gradient
from reference import pictures, smooth

X, C = pictures(3), torch.tensor([0, 1, 2])

ROOMS = dict(predict=lambda net, n: predict(net, X, n), gradient=lambda net, n: value_and_gradient(net, X, C, batch_size=n)[1],
             attribute=lambda net, n: ir.attribute(net, X, C, ir.StraightPath(), (4,), batch_size=n)['idgi', 4],
             integrated=lambda net, n: ir.IntegratedGradients(net).attribute(X, target=C, n_steps=4, internal_batch_size=n),
             guided=lambda net, n: ir.GuidedIG(net).attribute(X, target=C, n_steps=4, internal_batch_size=n),
             blurred=lambda net, n: ir.BlurIG(net, max_sigma=2.).attribute(X, target=C, n_steps=4, internal_batch_size=n),
             second_order=lambda net, n: ir.attribute(net, X, C, ir.StraightPath(), (2,), (ir.second_order,),
                                                      batch_size=n)['second_order', 2],
             insertion=lambda net, n: ir.insertion(net, X, X.sum(1), C, 0*X, n).curve,
             information=lambda net, n: ir.information_curves(net, X/2 + .5, 0*X + .5, X.sum(1), C, lambda p: p, batch_size=n).prob)

NONE = [0, -1, -64, 1.5, 64., True, False, '8', b'8', float('nan'), float('inf'), [8], (8,), {}, Fraction(8), 8j, np.float64(8),
        np.array([8, 8]), torch.tensor(1.5)]

@pytest.mark.parametrize('size', NONE, ids=repr)
def test_what_is_no_batch_size_is_refused(size):
    with pytest.raises(InputError, match='at least 1'): check_batch_size(size)

@pytest.mark.parametrize('size', [0, -1, 1.5, True, '8'], ids=repr)
@pytest.mark.parametrize('room', ROOMS)
def test_it_is_refused_in_every_room(room, size):
    with pytest.raises(InputError, match=f'{size!r}; it must be a whole number'): ROOMS[room](smooth(), size)

@pytest.mark.parametrize('room', ['predict', 'gradient', 'attribute', 'insertion'])
def test_none_is_no_batch_size_but_where_captum_says_so(room):
    with pytest.raises(InputError, match='None; it must be a whole number'): ROOMS[room](smooth(), None)

@pytest.mark.parametrize('size', [1, 2, 3, 64, 2**40, 2**80, np.int8(2), np.uint64(2), torch.tensor(2), np.array(2)], ids=repr)
@pytest.mark.parametrize('room', ['predict', 'gradient', 'attribute'])
def test_every_whole_number_will_do(room, size):
    net = smooth()
    assert torch.allclose(ROOMS[room](net, size), ROOMS[room](net, 64), atol=1e-12)

@pytest.mark.parametrize('size', [1, 2, 5, 7, 8])
def test_passes_are_as_many_as_the_batches(size):
    passes, net = [], smooth()
    net.register_forward_pre_hook(lambda m, a: passes.append(len(a[0])))
    predict(net, pictures(7), size)
    assert sum(passes) == 7 and len(passes) == -(-7//size) and max(passes) <= size

@pytest.mark.parametrize('look', [lambda net, x: predict(net, x), lambda net, x: value_and_gradient(net, x, C[:0])])
def test_no_images_are_no_batch(look):
    with pytest.raises(InputError, match=r'no images.*\(0, 3, 8, 8\)'): look(smooth(), X[:0])

@pytest.mark.parametrize('fits', [0, 1, 2, 5])
def test_halving_ends(fits):
    "With memory for `fits` images; with none there is an end too."
    tried = []
    def net(x):
        tried.append(len(x))
        if len(x) > fits: raise torch.OutOfMemoryError('out of memory')
        return x.mean((2, 3))
    if fits: assert torch.allclose(predict(net, pictures(9)), pictures(9).mean((2, 3)))
    else:
        with pytest.raises(InputError, match='single image'): predict(net, pictures(9))
    assert len(tried) < 15

def test_a_network_of_one_output_has_a_batch_size(): assert find_batch_size(smooth(classes=1), pictures(1)) >= 8
