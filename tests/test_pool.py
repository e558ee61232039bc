"What ends: the pool of threads is as large as the process may have it, a fork gets a new one, and no batch size goes on for ever."
import os
from multiprocessing import get_context

import pytest, torch

from idgi_repro.errors import InputError
from idgi_repro.method import information
from idgi_repro.method.attribution import BlurIG, GuidedIG, IDGI, IntegratedGradients, attribute
from idgi_repro.method.diffid import diffid
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.information import compressed_sizes, information_curves
from idgi_repro.method.metrics import insertion
from idgi_repro.method.paths import BlurPath, Quadrature, StraightPath
from idgi_repro.method.rules import riemann, second_order
from idgi_repro.method.sensitivity import sensitivity_n
from reference import pictures, smooth

X, C = pictures(2), torch.tensor([1, 3])
PIXELS = (X + 1)/2


# -- the pool

@pytest.mark.parametrize('allowed,threads,cores', [({0}, 8, 1), ({0, 1, 2}, 8, 3), ({1, 5}, 1, 1), (set(range(64)), 4, 4), ({3}, 1, 1),
                                                   (set(range(2)), 2, 2)])
def test_the_pool_has_the_cores_of_the_process(monkeypatch, allowed, threads, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: allowed, raising=False)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    monkeypatch.setattr(os, 'cpu_count', lambda: 999)
    assert information._cores() == cores
    before = compressed_sizes(PIXELS)().tolist()
    assert information._pool(cores)._max_workers == cores and len(before) == 2

@pytest.mark.parametrize('count,cores', [(3, 3), (None, 1), (99, 8)])
def test_where_no_affinity_is_known_the_machines_cores_count(monkeypatch, count, cores):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: count)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    assert information._cores() == cores

def test_the_studys_threads_bound_it_later_too():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert information._cores() == 1
    finally: torch.set_num_threads(before)


def again(expected): assert compressed_sizes(PIXELS)().tolist() == expected
def curves_again(expected):
    torch.set_num_threads(1)
    assert curves()().tolist() == expected
def curves(): return lambda: information_curves(smooth(), PIXELS, 0., X.sum(1), C, lambda v: 2*v - 1).bytes
def twice(expected):
    again(expected)
    child(again, expected)

def child(function, expected):
    process = get_context('fork').Process(target=function, args=(expected,))
    process.start()
    process.join(20)
    hangs = process.is_alive()
    if hangs: process.kill()
    assert not hangs and process.exitcode == 0

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
@pytest.mark.parametrize('function', [again, curves_again, twice])
def test_a_forked_child_makes_a_pool_of_its_own(function):
    child(function, (curves() if function is curves_again else compressed_sizes(PIXELS))().tolist())

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_the_parents_pool_survives_the_fork():
    expected = compressed_sizes(PIXELS)().tolist()
    for _ in range(3): child(again, expected)
    pool = information._pool(information._cores())
    again(expected)
    assert information._pool(information._cores()) is pool


# -- batch sizes

def walked(path, rule): return lambda n: attribute(smooth(), X, C, path, (2,), (rule,), batch_size=n)
def classed(make, **how): return lambda n: make(smooth()).attribute(X, n_steps=2, internal_batch_size=n, **how)
LOOPS = {'straight': walked(StraightPath(), riemann), 'hessian': walked(StraightPath(), second_order),
         'guided': walked(GuidedPath(), riemann), 'blur': walked(BlurPath(3.), riemann),
         'quadrature': walked(Quadrature(StraightPath(), 'gausslegendre'), riemann), 'IG': classed(IntegratedGradients),
         'IG of a class': classed(IntegratedGradients, target=1), 'GIG': classed(GuidedIG),
         'BlurIG': classed(BlurIG), 'IDGI': classed(lambda m: IDGI(IntegratedGradients(m)), return_convergence_delta=True),
         'insertion': lambda n: insertion(smooth(), X, X.sum(1), C, 0., n),
         'insertion of many': lambda n: insertion(smooth(), X, [X.sum(1)]*3, C, 0., batch_size=n),
         'diffid': lambda n: diffid(smooth(), X, C, X, batch_size=n).logits,
         'sensitivity': lambda n: sensitivity_n(smooth(), X, C, X.sum(1), batch_size=n),
         'information': lambda n: information_curves(smooth(), PIXELS, 0., X.sum(1), C, lambda v: 2*v - 1, batch_size=n)}

@pytest.mark.parametrize('size', [0, -1, -64, 2.5, True, '8', torch.inf], ids=str)
@pytest.mark.parametrize('go', LOOPS.values(), ids=list(LOOPS))
def test_batch_sizes_that_would_never_end(go, size):
    with pytest.raises(InputError, match='batch size'): go(size)

@pytest.mark.parametrize('size', [1, 3, 10**6])
@pytest.mark.parametrize('go', LOOPS.values(), ids=list(LOOPS))
def test_others_end(go, size): assert go(size) is not None
