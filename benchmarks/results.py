"""python benchmarks/results.py [--rows 1000000] [--shards 10000] [--results DIR] [--out figures/benchmarks]

Time and memory of the way from a large results folder to the report: reading, tables, figures and the page, without photographs.
The results are made up (tests/simulate.py), with the columns of real ones: ten networks, six methods, five step counts, both protocols."""
import argparse, multiprocessing, os, sys, tempfile, threading, time
from pathlib import Path

from bench import high_water, processor, status
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report import page as R
from idgi_repro.report.results import result_files

sys.path.append(str(Path(__file__).resolve().parents[1]/'tests'))
from simulate import METHODS, PROTOCOLS, simulate

NETWORKS, STEPS = [f'made_up_{c}' for c in 'abcdefghij'], (8, 16, 32, 64, 128)

def peak(): return high_water()/1024 # GiB

def write(folder, rows, shards):
    "Made-up results of at least `rows` rows in `shards` files, a tenth of them for each network."
    cells = len(NETWORKS)*len(PROTOCOLS)
    simulate(folder, NETWORKS, PROTOCOLS, -(-rows//(cells*len(METHODS)*len(STEPS))), STEPS, METHODS, shards=shards//cells)

def now():
    "The memory of this process, in GiB."
    return status('VmRSS')/1024

def private():
    "The memory of the processes that this one has forked, in GiB, without what they share with it."
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    lines = [l for c in children for l in Path(f'/proc/{c}/smaps_rollup').read_text().splitlines()]
    return sum(int(l.split()[1]) for l in lines if l.startswith('Private_'))/2**20

def cpu(): return sum(os.times()[:4])

def timed(f, times):
    "`f`, which notes how long it took, by the clock and of the processors, and the memory until then."
    def g(*a, **k):
        start, work = time.perf_counter(), cpu()
        out = f(*a, **k)
        times[f.__name__] = dict(seconds=time.perf_counter() - start, work=cpu() - work, peak=peak())
        if f.__name__ == 'read': times['rows'] = len(out[0])
        return out
    return g

def watch(found, done):
    "Keeps in `found` the most memory of the forked processes, and of this one with them at one time."
    while not done.wait(1):              # to add up a process takes some of its time
        try: forked = private()
        except OSError: continue         # one has just ended
        found['forked'], found['together'] = max(found['forked'], forked), max(found['together'], forked + now())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=1_000_000, help='rows, one per image and map (default: %(default)s)')
    p.add_argument('--shards', type=int, default=10_000, help='files, a multiple of 20 (default: %(default)s)')
    p.add_argument('--results', help='where the results are, or are to be written if there are none (default: a temporary folder)')
    p.add_argument('--out', default='figures/benchmarks', help='folder for the numbers (default: %(default)s)')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder, times, found, done = Path(a.results or f'{tmp}/results'), {}, dict(forked=0., together=0.), threading.Event()
        if not folder.is_dir():          # in a process of its own, whose memory does not count
            writer = multiprocessing.get_context('spawn').Process(target=write, args=(folder, a.rows, a.shards))
            writer.start(); writer.join()
        load, before = os.getloadavg()[0], peak()
        watcher = threading.Thread(target=watch, args=(found, done), daemon=True)
        watcher.start()
        for f in (R.read, R.all_tables, R.drawn): setattr(R, f.__name__, timed(f, times))
        timed(R.report, times)(folder, f'{tmp}/report', PAPER, maps_of=None)
        done.set(); watcher.join()
        shards = len(result_files(folder))
    rows, whole = times.pop('rows'), times['report']
    parts = dict(read='reading', all_tables='tables', drawn='figures', report='all, with the page')
    line = lambda k: f'| {parts[k]} | {times[k]["seconds"]:.0f} | {times[k]["work"]:.0f} | {times[k]["peak"]:.2f} |'
    lines = '\n'.join(map(line, parts))
    text = f'''# A large results folder

{rows:,} rows in {shards:,} files to the report of tables, figures and page, without photographs: {whole["seconds"]:.0f} s
and at most {max(whole["peak"], found["together"]):.2f} GiB (wanted: under 120 s and 4 GiB).

| part | seconds | of the processors | peak so far (GiB) |
| --- | ---: | ---: | ---: |
| imports | | | {before:.2f} |
{lines}

The processes that draw the figures share the rows and have {found["forked"]:.2f} GiB of their own at most, in sum;
all processes at one time have {found["together"]:.2f} GiB at most.
{processor()}, {len(os.sched_getaffinity(0))} cores, load {load:.1f} before the start; written by `benchmarks/results.py`.
'''
    Path(a.out).mkdir(parents=True, exist_ok=True)
    (Path(a.out)/'results.md').write_text(text)
    print(text)

if __name__ == '__main__': main()
