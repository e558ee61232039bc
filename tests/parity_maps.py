"""python parity_maps.py SHARED OUT [ig|gig|blurig ...]: the study's maps of the golden images, as an .npz with the golden file's names.

A program of its own, because which convolution kernels run is settled by the environment when torch is imported.
`gig` is left out where the forward pass does not give the golden probabilities to the last bit; `prob` is always written."""
import importlib.util, sys
from pathlib import Path

import numpy as np, torch

from idgi_repro.method.attribution import attribute, saliency
from idgi_repro.method.gradients import predict, probability
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.paths import BlurPath, StraightPath

STEPS = dict(ig=(8, 16, 32, 64, 128), gig=(128,), blurig=(8, 16, 32))


def network(shared):
    "MobileNetV2 as the golden results used it: (model, mean, std)."
    spec = importlib.util.spec_from_file_location('realdata', shared/'realdata'/'realdata.py')
    realdata = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(realdata)
    return realdata.mobilenet_v2()

def images(golden, mean, std):
    "The golden images and the black one, normalised, and the classes."
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    pixels = torch.from_numpy(golden['pixels'])
    return (pixels - mean)/std, (torch.zeros_like(pixels) - mean)/std, torch.from_numpy(golden['target'])

def main(shared, out, *methods):
    torch.set_num_threads(2)
    golden = np.load(Path(shared)/'golden'/'study_mobilenet_v2.npz')
    model, mean, std = network(Path(shared))
    x, black, target = images(golden, mean, std)
    paths = dict(ig=StraightPath(black), gig=GuidedPath(black, normalize=(mean, std), pixels=torch.from_numpy(golden['pixels'])),
                 blurig=BlurPath())
    prob = probability(predict(model, x, 2), target).numpy()
    found = {'prob': prob}
    for method in methods:
        if method == 'gig' and (prob != golden['prob']).any(): continue
        maps = attribute(model, x, target, paths[method], steps=STEPS[method], protocol='published', batch_size=2)
        found |= {f'map/{method}/{n}/{rule}': saliency(a).numpy() for (rule, n), a in maps.items()}
    np.savez(out, **found)


if __name__ == '__main__': main(*sys.argv[1:])
