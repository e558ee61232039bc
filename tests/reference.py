"""METHODS.md, transcribed plainly: one image, one point at a time, no batches, no shared work. Slow, and easy to check by eye.

Also the small networks that the tests explain."""
import numpy as np, torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur


class Function(nn.Module):
    "Logits (B, 1) given by `f` of the features x_1, x_2, … (each (B,)), whatever the image's shape."
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return self.f(*x.flatten(1).T)[:, None]

def image(*values, dtype=torch.float64): return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)

def smooth(channels=3, classes=5, seed=0):
    "A float64 network without rectifiers, for any image of at least 4 x 4 pixels."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.Softplus(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                            nn.Linear(96, classes))
        net[-1].weight.data *= 6                               # probabilities that move along the path
    return net.double()

def pictures(b=2, c=3, h=8, w=8, seed=0):
    return torch.rand(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))*2 - 1


def look(model, x, c):
    "Probability of class c at one image (C, H, W), and its gradient there."
    x = x.detach().clone().requires_grad_()
    f = model(x[None]).softmax(1)[0, c]
    return f.item(), torch.autograd.grad(f, x)[0]

def idgi_sum(f, g): return sum(g[i]**2*(f[i+1] - f[i])/(g[i]**2).sum() for i in range(len(f)-1))

def straight(model, x, baseline, c, n, N, protocol):
    "Integrated gradients: (riemann, idgi) attributions."
    alphas = np.linspace(0, 1, N)[::N//n] if protocol == 'published' else np.arange(n+1)/n
    xs = [baseline + a*(x - baseline) for a in alphas]
    f, g = zip(*(look(model, v, c) for v in xs))
    late = protocol == 'published'
    return sum(g[i+late]*(xs[i+1] - xs[i]) for i in range(len(xs)-1)), idgi_sum(f, g)

def blurred(x, sigma):
    size = 2*round(4*sigma) + 1
    return gaussian_blur(x, [size, size], [sigma, sigma]) if sigma else x

def blur(model, x, c, n, N, protocol, max_sigma, step=.01):
    """Blur IG: (riemann, idgi) attributions. N is the paper's largest n; its points of a smaller n are those of the corrected protocol but
    the last."""
    sigma = [i*max_sigma/n for i in range(n+1)]
    xs = [blurred(x, s) for s in sigma]
    f, g = zip(*(look(model, v, c) for v in xs))
    riemann = sum((sigma[i+1] - sigma[i])*g[i]*(blurred(x, sigma[i] + step) - xs[i])/step for i in range(n))
    last = n if protocol == 'published' else n+1
    return -riemann, -idgi_sum(f[:last], g[:last])

def guided_step(x, gradient, baseline, image, s, n, fraction, max_dist):
    "Step s of n of Guided IG, float64 vectors in NumPy."
    alpha = (s+1)/n
    alpha_min, alpha_max = max(alpha - max_dist, 0), min(alpha + max_dist, 1)
    way = image - baseline
    x_min, x_max = baseline + alpha_min*way, baseline + alpha_max*way
    target = np.abs(way).sum()*(1 - (s+1)/n)
    x, size = x.copy(), np.abs(gradient)
    while True:
        where = np.full_like(x, alpha_max)
        np.divide(x - baseline, way, out=where, where=way != 0)
        late = where < alpha_min
        x[late] = x_min[late]
        distance = np.abs(x - image).sum()
        if np.isclose(distance, target, rtol=1e-7, atol=1e-7): return x
        size[x == x_max] = np.inf
        selected = (size <= np.quantile(size, fraction, method='lower')) & np.isfinite(size)
        if not selected.any(): return x
        reach = np.abs(x_max - x)[selected].sum()
        gamma = (distance - target)/reach if reach else np.inf
        if gamma > 1: x[selected] = x_max[selected]
        else:
            x[selected] += gamma*(x_max - x)[selected]
            return x

def guided(model, x, baseline, c, n, protocol, mean, std, fraction=.5, max_dist=1.):
    "Guided IG: (riemann, idgi) attributions; moves in pixel space, where x = (pixels - mean)/std."
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    start, end = baseline*std + mean, x*std + mean
    points, f, g = [start], [], []
    for s in range(n+1):
        fs, gs = look(model, (points[s] - mean)/std, c)
        f.append(fs); g.append(gs if protocol == 'published' else gs/std)
        if s < n:
            points.append(torch.from_numpy(guided_step(*(v.flatten().numpy() for v in (points[s], g[s], start, end)), s, n, fraction,
                                                       max_dist)).view_as(x))
    last = n if protocol == 'published' else n+1
    return sum(g[s]*(points[s+1] - points[s]) for s in range(n)), idgi_sum(f[:last], g[:last])
