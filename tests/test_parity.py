"The study's published results, on its images and network: ../shared/golden, skipped where it is absent."
import os, subprocess, sys
from functools import cache
from pathlib import Path

import numpy as np, pytest, torch

from idgi_repro.study.images import Photo, blurred
from idgi_repro.method.gradients import value_and_gradient
from idgi_repro.method.information import CURVES, information_curves
from idgi_repro.method.metrics import insertion
from idgi_repro.study.models import Network
from idgi_repro.method.guided import guided_step
from parity_maps import STEPS, images, network
import reference

ISAS = ('AVX2', 'DEFAULT')       # oneDNN's kernels: other rounding flips rectifiers of this network, which moves IG maps by 1e-3 and more


@pytest.fixture(scope='session')
def golden(shared): return dict(np.load(shared/'golden'/'study_mobilenet_v2.npz'))

@pytest.fixture(scope='session')
def net(shared): return network(shared)

@pytest.fixture(scope='session')
def maps(shared, tmp_path_factory):
    "maps(isa, *methods) are our maps with the kernels `isa`, computed once, by a process of its own."
    @cache
    def run(isa, *methods):
        out = tmp_path_factory.mktemp('parity')/'maps.npz'
        env = os.environ | dict(ONEDNN_MAX_CPU_ISA=isa, OMP_NUM_THREADS='2', OMP_WAIT_POLICY='passive', CUDA_VISIBLE_DEVICES='')
        env['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [env.get('PYTHONPATH')])])
        subprocess.run([sys.executable, Path(__file__).with_name('parity_maps.py'), shared, out, *methods], env=env, check=True)
        return dict(np.load(out))
    return run

def errors(found, golden, method):
    "Relative L2 error of each map of each image."
    flat = lambda v: v.reshape(len(v), -1).astype(np.float64)
    norm = lambda v: np.linalg.norm(v, axis=1)
    return {k: norm(flat(found[k]) - flat(golden[k]))/norm(flat(golden[k])) for k in golden if k.startswith(f'map/{method}/')}


@pytest.mark.slow
def test_every_ig_map_of_the_study_is_met(maps, golden):
    worst = {}
    for isa in ISAS:
        found = errors(maps(isa, *(STEPS if isa == ISAS[0] else ['ig'])), golden, 'ig')
        assert len(found) == 10 and all(len(e) == 2 for e in found.values())
        worst[isa] = max(e.max() for e in found.values())
        if worst[isa] <= 1e-4: return
    pytest.fail(f'relative L2 error of the worst map by kernels: {worst}')


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['riemann', 'idgi'])
@pytest.mark.parametrize('n', STEPS['blurig'])
def test_blur_ig_maps_of_the_study_are_met(maps, golden, n, rule):
    key = f'map/blurig/{n}/{rule}'
    for a, b in zip(maps(ISAS[0], *STEPS)[key].astype(np.float64), golden[key].astype(np.float64), strict=True):
        assert (a*b).sum()/np.linalg.norm(a)/np.linalg.norm(b) >= .9995 and .9 < np.linalg.norm(a)/np.linalg.norm(b) < 1.1


@pytest.mark.slow
def test_every_guided_ig_map_of_the_study_is_met_where_the_forward_pass_is_the_studys(maps, golden):
    runs = {isa: maps(isa, *(STEPS if isa == ISAS[0] else ['gig'])) for isa in ISAS}
    found = next((errors(r, golden, 'gig') for r in runs.values() if (r['prob'] == golden['prob']).all()), None)
    if found is None:
        off = {isa: abs(r['prob'] - golden['prob']).max().item() for isa, r in runs.items()}
        pytest.skip('Guided IG is chaotic under rounding (a relative change of 1e-7 of the input turns the final map to a cosine of about '
                    '0.1), so its golden maps can be met '
                    f'only where the forward pass gives the golden probabilities bit for bit; here they differ with all kernels: {off}')
    assert len(found) == 2 and max(e.max() for e in found.values()) <= 1e-4, found


@pytest.mark.slow
@pytest.mark.parametrize('fraction,max_dist', [(.5, 1.), (.25, .02)], ids=['study', 'PAIR'])
def test_guided_steps_on_real_gradients_are_the_methods_steps(net, golden, fraction, max_dist):
    "The map is chaotic, a step is not: from the same point and gradient it must arrive where METHODS.md says."
    model, mean, std = net
    _, _, target = images(golden, mean, std)
    m, s = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    end = torch.from_numpy(golden['pixels']).double()
    p, start, n = torch.zeros_like(end), torch.zeros_like(end), 16
    for step in range(12):
        _, g = value_and_gradient(model, ((p - m)/s).float(), target, batch_size=2)
        args = [v.flatten(1) for v in (p, g, start, end)]
        q = guided_step(*args, (step+1)/n, fraction, max_dist)
        for i in range(2):
            expected = reference.guided_step(*(v[i].double().numpy() for v in args), step, n, fraction, max_dist)
            assert abs(q[i].numpy() - expected).max() < 1e-9, (step, i)
            assert np.count_nonzero(expected != args[0][i].numpy()) > 1000
        p = q.view_as(p)


@pytest.mark.slow
def test_insertion_scores_and_ratios_of_the_studys_own_maps_are_met(net, golden):
    model, mean, std = net
    x, black, target = images(golden, mean, std)
    keys = [k.removeprefix('insertion/') for k in golden if k.startswith('insertion/')]
    found = insertion(model, x, [golden[f'map/{k}'] for k in keys], target, black)
    assert len(keys) >= 4 and found.curve.shape == (len(keys), 2, 21)
    for i, k in enumerate(keys):
        assert found.score[i].tolist() == pytest.approx(golden[f'insertion/{k}'], abs=1e-3), k
        assert found.ratio[i].tolist() == pytest.approx(golden[f'insertion_ratio/{k}'], abs=1e-3), k


@pytest.mark.slow
def test_information_curves_of_the_studys_own_maps_are_met(net, golden):
    "PNG sizes and correctness exactly, probabilities to 1e-5, curves to 1e-3, and the same images excluded."
    model, mean, std = net
    _, _, target = images(golden, mean, std)
    pixels, blurred = (torch.from_numpy(golden[k]) for k in ('pixels', 'blurred_pixels'))
    keys = [k.removeprefix('png_bytes/') for k in golden if k.startswith('png_bytes/')]
    assert len(keys) == 8
    found = information_curves(model, pixels, blurred, [golden[f'map/{k}'] for k in keys], target,
                               Network('golden', model, mean, std).normalize)
    for i, k in enumerate(keys):
        assert (found.bytes[i].numpy() == golden[f'png_bytes/{k}']).all(), k
        assert (found.correct[i].numpy() == golden[f'pic_correct/{k}']).all(), k
        assert abs(found.prob[i].numpy() - golden[f'pic_prob/{k}']).max() <= 1e-5, k
        for c in CURVES:
            ours, theirs = getattr(found, c)[i].numpy(), golden[f'{c}/{k}']
            assert (np.isnan(ours) == np.isnan(theirs)).all() and np.nanmax(abs(ours - theirs), initial=0) <= 1e-3, (c, k)
    assert found.excluded() == ['', 'SIC: last value']


@pytest.mark.slow
def test_blurred_images_are_the_studys(shared, net, golden):
    "From the original files, JPEG artefacts included."
    network = Network('golden', *net)
    for name, expected in zip(golden['files'], golden['blurred_pixels']):
        photo = Photo(shared/'realdata'/'imagenet-sample'/str(name))
        assert abs(network.pixels(blurred(photo.open())).numpy() - expected).max() <= 1e-6
