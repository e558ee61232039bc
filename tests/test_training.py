"A training that is killed ends as one that was not; what cannot be trained is refused by name."
import multiprocessing, random, signal, sys, time

import pytest, torch
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method.training import accuracy, cross_entropy, fit, shuffled

def train(folder, file, begins):
    "A training of forty epochs, in a process of its own."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(96, 3, 8, 8), torch.arange(96) % 3
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.3), nn.Flatten(), nn.Linear(144, 3))
    optimizer = torch.optim.AdamW(net.parameters(), .01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, .01, total_steps=40*6)
    begins.set()
    losses = fit(net, shuffled(x, y, 16), cross_entropy, optimizer, schedule, 40, folder)
    torch.save(net.state_dict() | dict(losses=torch.tensor(losses)), file)

@pytest.mark.skipif(sys.platform == 'win32', reason='there is no SIGKILL')
def test_killed_twenty_times(tmp_path):
    "Killed at random moments, then left alone: the weights and the losses of an undisturbed training, bit for bit."
    processes = multiprocessing.get_context('forkserver')         # it imports what is needed once, and forks
    processes.set_forkserver_preload(['pytest', 'torch._dynamo', 'idgi_repro.method.training'])
    def started(folder, name):
        begins = processes.Event()
        process = processes.Process(target=train, args=(folder, tmp_path/name, begins), daemon=True)
        process.start()
        assert begins.wait(60)
        return process
    started(tmp_path/'first', 'first.pt').join()
    before = time.perf_counter()
    started(tmp_path/'again', 'again.pt').join()
    took, moments, killed = time.perf_counter() - before, random.Random(0), 0
    for _ in range(20):
        process = started(tmp_path/'folder', 'killed.pt')
        process.join(moments.uniform(0, took/8))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    started(tmp_path/'folder', 'killed.pt').join()
    assert killed >= 10                                           # a fast machine may have ended it before
    a, b = (torch.load(tmp_path/f'{name}.pt') for name in ('again', 'killed'))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert len(a['losses']) == 40 and a['losses'][-1] < a['losses'][0]

def parts(width=4, kind=torch.optim.SGD):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 2))
    return net, kind(net.parameters(), .1)

X, Y = torch.randn(8, 3, 2, 2), torch.arange(8) % 2

@pytest.mark.parametrize('given, word', [
    (lambda: shuffled(X, Y, 9), 'batch size is 9'),
    (lambda: shuffled(X, Y, 0), 'batch size is 0'),
    (lambda: fit(parts()[0], lambda epoch: [], cross_entropy, parts()[1], epochs=1), 'has no batches'),
    (lambda: fit(parts()[0], lambda epoch: [(X*torch.nan, Y)], cross_entropy, parts()[1], epochs=1), 'loss is nan in epoch 1, batch 1'),
    (lambda: fit(parts()[0], shuffled(X, Y, 4), lambda *a: cross_entropy(*a)*torch.inf, parts()[1], epochs=1), 'loss is inf')])
def test_refused(given, word):
    with pytest.raises(InputError, match=word): given()

def test_checkpoint_of_another(tmp_path):
    "Of another network, of another training, or damaged: each is named, with the file and what to do."
    net, optimizer = parts()
    fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, epochs=1, folder=tmp_path)
    schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, 1)
    with pytest.raises(InputError, match='another network: 1.weight'):
        fit(*(p := parts(5))[:1], shuffled(X, Y, 4), cross_entropy, p[1], epochs=2, folder=tmp_path)
    with pytest.raises(InputError, match='another training'):
        fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, schedule(optimizer), epochs=2, folder=tmp_path)
    (tmp_path/'checkpoint.pt').write_bytes(b'no checkpoint')
    with pytest.raises(InputError, match='cannot be read'):
        fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, epochs=2, folder=tmp_path)

def test_finished_is_not_repeated(tmp_path):
    net, optimizer = parts()
    first = fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, epochs=2, folder=tmp_path)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, epochs=2, folder=tmp_path, tick=pytest.fail) == first
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

def test_random_numbers_of_others_are_left_alone():
    torch.manual_seed(3); expected = torch.rand(2)
    net, optimizer = parts()
    torch.manual_seed(3); fit(net, shuffled(X, Y, 4), cross_entropy, optimizer, epochs=1)
    assert torch.equal(torch.rand(2), expected) and not net.training and 0 <= accuracy(net, X, Y) <= 1
