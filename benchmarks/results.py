"""python benchmarks/results.py [--rows 1000000] [--shards 10000] [--results DIR] [--out figures/benchmarks]

Time and memory of the way from a large results folder to the report: reading, tables, figures and the page, without photographs.
The results are made up, with the columns of real ones: ten networks, three methods with both rules, five step counts, both grids."""
import argparse, platform, tempfile, time
from pathlib import Path

from idgi_repro import report as R
from idgi_repro.models import STUDY
from idgi_repro.tables import result_files, simulate

GRIDS, STEPS, METHODS = ('closed', 'study'), (8, 16, 32, 64, 128), ('ig', 'gig', 'blurig')

def peak():
    "The most memory that this process has had, in GiB."
    return next(int(l.split()[1])/2**20 for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM'))

def write(folder, rows, shards):
    "Made-up results of at least `rows` rows in `shards` files, a tenth of them for each network."
    cells = len(STUDY)*len(GRIDS)
    simulate(folder, STUDY, GRIDS, -(-rows//(cells*len(METHODS)*2*len(STEPS))), STEPS, METHODS, shards=shards//cells)

def timed(f, times):
    "`f`, which notes when it has ended and the memory until then."
    def g(*a, **k):
        start = time.perf_counter()
        out = f(*a, **k)
        times[f.__name__] = time.perf_counter() - start, peak()
        if f.__name__ == 'read': times['rows'] = len(out[0])
        return out
    return g

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=1_000_000, help='rows, one per image and map (default: %(default)s)')
    p.add_argument('--shards', type=int, default=10_000, help='files, a multiple of 20 (default: %(default)s)')
    p.add_argument('--results', help='where the results are, or are to be written if there are none (default: a temporary folder)')
    p.add_argument('--out', default='figures/benchmarks', help='folder for the numbers (default: %(default)s)')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder, times = Path(a.results or f'{tmp}/results'), {}
        if not folder.is_dir(): write(folder, a.rows, a.shards)
        start, before = time.perf_counter(), peak()
        for f in (R.read, R.all_tables): setattr(R, f.__name__, timed(f, times))
        R.report(folder, f'{tmp}/report', maps_of=None)
        seconds, shards = time.perf_counter() - start, len(result_files(folder))
    cpu = next((l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')), platform.processor())
    rows, (read, read_peak), (tables, tables_peak) = times['rows'], times['read'], times['all_tables']
    text = f'''# A large results folder

{rows:,} rows in {shards:,} files to the report of tables, figures and page, without photographs: {seconds:.0f} s, at most {peak():.2f} GiB (wanted: under 120 s and 4 GiB).

| part | seconds | peak so far (GiB) |
| --- | ---: | ---: |
| imports | | {before:.2f} |
| reading | {read:.1f} | {read_peak:.2f} |
| tables | {tables:.1f} | {tables_peak:.2f} |
| figures and page | {seconds - read - tables:.1f} | {peak():.2f} |

{cpu}, two cores, shared; measured by `benchmarks/results.py`.
'''
    Path(a.out).mkdir(parents=True, exist_ok=True)
    (Path(a.out)/'results.md').write_text(text)
    print(text)

if __name__ == '__main__': main()
