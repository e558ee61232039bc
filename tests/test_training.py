"A training that is killed ends as one that was not; what cannot be trained is refused by name."
import itertools, multiprocessing, os, random, signal, sys, threading

import pytest, torch
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method.training import accuracy, cross_entropy, fit, shuffled

def train(folder, file, calls=0, delay=0.):
    "A training of forty epochs, in a process of its own, killed `delay` seconds after its loss was asked for the `calls`-th time."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(96, 3, 8, 8), torch.arange(96) % 3
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.3), nn.Flatten(), nn.Linear(144, 3))
    optimizer = torch.optim.AdamW(net.parameters(), .01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, .01, total_steps=40*6)
    call = itertools.count(1)
    def objective(*given):
        if next(call) == calls: threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return cross_entropy(*given)
    losses = fit(net, shuffled(x, y, 16), objective, optimizer, schedule, 40, folder)
    torch.save(net.state_dict() | dict(losses=torch.tensor(losses)), file)

@pytest.mark.skipif(sys.platform == 'win32', reason='there is no SIGKILL')
def test_killed_twenty_times(tmp_path):
    "Killed at random moments, then left alone: the weights and the losses of an undisturbed training, bit for bit."
    processes = multiprocessing.get_context('forkserver')         # it imports what is needed once, and forks
    processes.set_forkserver_preload(['pytest', 'torch._dynamo', 'idgi_repro.method.training'])
    def ended(*given):
        process = processes.Process(target=train, args=given, daemon=True)
        process.start()
        process.join()
        return process.exitcode
    moments = random.Random(0)
    assert ended(tmp_path/'again', tmp_path/'again.pt') == 0
    codes = [ended(tmp_path/'folder', tmp_path/'killed.pt', moments.randint(1, 20), moments.uniform(0, .005)) for _ in range(20)]
    assert codes.count(-signal.SIGKILL) >= 10                     # those that are left found it ended
    assert ended(tmp_path/'folder', tmp_path/'killed.pt') == 0
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
