#!/usr/bin/env python3
"""Notebooks are committed executed. This executes them, and checks that they are.

    python workflow/notebooks.py execute                     every notebook of nbs/ whose code changed since it was executed
    python workflow/notebooks.py execute nbs/cli.ipynb ...   of these, whose code changed
    python workflow/notebooks.py execute --all [NOTEBOOK...] whether or not it changed
    python workflow/notebooks.py check [NOTEBOOK...]         fails, naming notebook and cell, where one is not as it should be

`execute` keeps a hash of the notebook's code in its metadata, under `executed`. What it stores is tidied: no standard error, no progress
bars, no addresses of objects, no metadata but a picture's size, PNGs of at most 100 KB. Cells that nbdev_test skips (`tst_flags` of
settings.ini, `eval: false`) are not executed.
"""
import argparse, ast, base64, configparser, hashlib, io, json, os, re, sys
from copy import deepcopy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 100_000 # bytes of a picture, and of any other output
COLOUR = re.compile(r'\x1b\[[0-9;]*m') # of a terminal

PROGRESS = re.compile(r'\d%\||\d ?(it/s|s/it)\b|^progress [\d.]+$', re.MULTILINE)
FORBIDDEN = { # what no output may hold
    'a path of a machine': re.compile(r'(?<![\w.])/(tmp|home|root|work|Users)\b|site-packages|\btmp(?=\w*[\d_])[a-z0-9_]{8}\b|'
                                      + re.escape(str(ROOT))),
    'a progress bar': PROGRESS,
    'a timing': re.compile(r'\d ?(ns|µs|us|ms|sec|secs|seconds?|minutes?|hours?)\b|\d s\b|\b(Wall time|CPU '
                           r'times)\b|(\b|_)(seconds|minutes|ms)\b'),
    'an address of an object': re.compile(r' at 0x[0-9a-fA-F]+'),
}


def settings():
    "The section of settings.ini."
    found = configparser.ConfigParser(interpolation=None)
    found.read(ROOT/'settings.ini', 'utf-8')
    return found['DEFAULT']

def text(value):
    "A notebook keeps text whole or as a list of lines."
    return ''.join(value) if isinstance(value, list) else value

def code_cells(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']

def digest(nb):
    "Hash of the code, whatever else the notebook says."
    return hashlib.sha256('\0'.join(text(c['source']) for c in code_cells(nb)).encode()).hexdigest()[:16]

def skipped(source):
    "Whether nbdev_test, and so `execute`, passes the cell over."
    flags = [*settings().get('tst_flags', '').split(), r'eval:\s*false']
    return re.search(rf'^\s*#\s*\|\s*({"|".join(flags)})\s*$', source, re.MULTILINE) is not None


# ---- which cells must have an output

QUIET = {'rc', 'rcParams', 'rcdefaults', 'rc_context', 'close', 'style', 'get_cmap', 'ion', 'ioff', 'switch_backend', 'cycler', 'savefig'}
# methods that return something
SHOWN = {'head', 'tail', 'round', 'describe', 'sort_values', 'reset_index', 'to_frame', 'pivot', 'pivot_table', 'plot', 'imshow', 'hist',
         'tolist', 'item'}
ELSEWHERE = re.compile(r'redirect|capture|raises|suppress')

def _certain(node):
    "Parts of a statement or an expression that run whenever it does: no branch, no function's body."
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.IfExp, ast.BoolOp, ast.Try,
                         ast.Match, ast.Assert)):
        return
    if isinstance(node, (ast.With, ast.AsyncWith)) and any(ELSEWHERE.search(ast.unparse(i)) for i in node.items): return
    for child in ast.iter_child_nodes(node): yield from _certain(child)

def _speaks(node):
    "A call of print, display or show, or of pyplot."
    if not isinstance(node, ast.Call): return False
    name = ast.unparse(node.func)
    if name in ('print', 'display', 'show'): return not any(k.arg == 'file' for k in node.keywords)
    return name.startswith('plt.') and name.split('.')[1] not in QUIET

def _has_value(node):
    "Whether the last expression of a cell is certainly not None."
    if isinstance(node, ast.Call): # of a class, by its capital, or of a method known to return something
        name = ast.unparse(node.func).split('.')[-1]
        return bool(re.match('[A-Z]', name)) or isinstance(node.func, ast.Attribute) and name in SHOWN
    if isinstance(node, ast.Constant): return node.value is not None
    return not isinstance(node, (ast.BoolOp, ast.IfExp, ast.Await, ast.Yield, ast.YieldFrom))

def prints_or_draws(source):
    "Whether a cell with this code leaves an output wherever it is executed. What cannot be told from the code counts as no."
    try: body = ast.parse(source).body
    except SyntaxError: return False                                    # a magic
    if 'plt.close' in source: body = [s for s in body if 'plt.' not in ast.unparse(s)]
    if any(_speaks(n) for s in body for n in _certain(s)): return True
    return bool(body) and isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(';') and _has_value(body[-1].value)


# ---- execution

def smaller(png, limit=LIMIT):
    "A PNG of at most `limit` bytes: as it is but better packed, else of 256 colours, else of fewer pixels."
    from PIL import Image
    def packed(image):
        image.save(out := io.BytesIO(), 'PNG', optimize=True)
        return out.getvalue()
    image = Image.open(io.BytesIO(png))
    best = min(packed(image), png, key=len)
    if len(best) <= limit: return best
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    scale = 1.
    while True:
        size = [max(1, round(scale*s)) for s in image.size]
        best = packed((image.resize(size, Image.LANCZOS) if scale < 1 else image).quantize(256))
        if len(best) <= limit: return best
        scale *= min(.95, (limit/len(best))**.5)

def spoken(said):
    "Text without colours, progress bars and addresses of objects; of what a line overwrote, the last."
    lines = [line.rstrip('\r').rsplit('\r', 1)[-1] for line in said.split('\n')]
    return COLOUR.sub('', re.sub(r' at 0x[0-9a-fA-F]+', '', '\n'.join(line for line in lines if not PROGRESS.search(line))))

def tidy(outputs):
    "Outputs as they are committed."
    kept = []
    for o in outputs:
        if o['output_type'] == 'stream':
            if o['name'] != 'stdout': continue
            if kept and kept[-1]['output_type'] == 'stream': kept[-1]['text'] += o['text']
            else: kept.append(dict(output_type='stream', name='stdout', text=o['text']))
        elif o['output_type'] in ('display_data', 'execute_result'):
            data = {k: v for k, v in o['data'].items() if 'widget' not in k and not (k == 'image/svg+xml' and 'image/png' in o['data'])}
            if not any(k for k in data if k != 'text/plain') and any('widget' in k for k in o['data']): continue
            if 'image/png' in data: data['image/png'] = base64.b64encode(smaller(base64.b64decode(data['image/png']))).decode()
            data = {k: spoken(v).splitlines(True) if k.startswith('text/') else v for k, v in data.items()}
            sizes = {k: {s: v[s] for s in ('width', 'height') if s in v} for k,
                     v in o.get('metadata', {}).items() if k.startswith('image/')}
            kept.append(dict(o, data=data, metadata={k: v for k, v in sizes.items() if v}))
            if 'execution_count' in o: kept[-1]['execution_count'] = None
    for o in kept:
        if 'text' in o: o['text'] = spoken(o['text']).splitlines(True)
    return [o for o in kept if o.get('text') != []]

def run(nb, folder):
    "A copy of the notebook, executed in `folder` by a kernel of this interpreter. Raises nbclient's CellExecutionError."
    import nbformat
    from nbclient import NotebookClient
    from idgi_repro.jobs import _kernel
    nb = nbformat.from_dict(nbformat.v4.rwbase.rejoin_lines(nbformat.from_dict(deepcopy(nb))))
    for c in code_cells(nb):
        c.outputs = []
        if skipped(c.source): c.metadata['tags'] = [*c.metadata.get('tags', []), 'skip-execution']
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}
    env |= dict(PYTHONHASHSEED='0', TQDM_DISABLE='1', PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [env.get('PYTHONPATH')])]))
    return NotebookClient(nb, km=_kernel(), timeout=None, extra_arguments=['--log-level=CRITICAL'],
                          resources=dict(metadata=dict(path=str(folder)))).execute(env=env, cleanup_kc=True)

def clean(nb):
    "What nbdev_clean makes of it, in place."
    from nbdev.clean import clean_nb
    s = settings()
    clean_nb(nb, False, s.get('allowed_metadata_keys', '').split(), s.get('allowed_cell_metadata_keys', '').split(),
             s.getboolean('clean_ids', True))
    return nb

def written(nb): return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'

def execute(file):
    "Executes a notebook in its folder and writes it."
    nb = json.loads(file.read_text('utf-8'))
    for cell, done in zip(nb['cells'], run(nb, file.parent)['cells']):
        if cell['cell_type'] == 'code': cell['outputs'] = tidy(done['outputs'])
    nb['metadata']['executed'] = digest(nb)
    file.write_text(written(clean(nb)), 'utf-8')


# ---- the check

def faults_of_output(output):
    "What an output holds that it must not."
    if output['output_type'] == 'error': yield 'its output is an error'
    if output.get('name') == 'stderr': yield 'standard error is stored'
    for kind, value in ({'text/plain': output['text']} if 'text' in output else output.get('data', {})).items():
        value = text(value) if isinstance(value, (str, list)) else json.dumps(value)
        picture = kind.startswith('image/') and 'svg' not in kind
        size = len(base64.b64decode(value)) if picture else len(value.encode())
        if size > LIMIT: yield f'its {kind} has {size/1000:.0f} KB, more than {LIMIT//1000}'
        if picture: continue
        for what, pattern in FORBIDDEN.items():
            if m := pattern.search(value): yield f'its output holds {what}: {value[max(0, m.start()-20):m.end()+20].strip()!r}'

def faults(file):
    "What is wrong with a notebook, one sentence each, with the cell's number among the code cells and its id."
    old = json.loads(file.read_text('utf-8'))
    new = clean(deepcopy(old))
    if not (known := old['metadata'].get('executed')): yield 'never executed: no hash of its code in the metadata'
    elif known != digest(old): yield 'its code is not the code that was executed'
    if written({k: v for k, v in old.items() if k != 'cells'}) != written({k: v for k, v in new.items() if k != 'cells'}):
        yield 'nbdev_clean would change its metadata'
    number = 0
    for cell, cleaned in zip(old['cells'], new['cells']):
        code = cell['cell_type'] == 'code'
        number += code
        where = f'cell {number if code else "of text"} ({cell.get("id", "without id")})'
        if cell != cleaned: yield f'{where}: nbdev_clean would change it'
        if not code: continue
        source = text(cell['source'])
        if not cell['outputs'] and not skipped(source) and prints_or_draws(source): yield f'{where}: prints or draws, and has no output'
        for output in cell['outputs']:
            for fault in faults_of_output(output): yield f'{where}: {fault}'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=('execute', 'check'))
    parser.add_argument('notebooks', nargs='*', type=Path, help='files; none: all of nbs/')
    parser.add_argument('--all', action='store_true', help='execute what did not change, too')
    args = parser.parse_intermixed_args(argv)
    files = args.notebooks or [f for f in sorted((ROOT/'nbs').rglob('*.ipynb'))
                               if not any(p.startswith(('.', '_')) for p in f.relative_to(ROOT).parts)]
    if absent := [f for f in files if not f.is_file()]: parser.error(f'{absent[0]} is no file; name notebooks as nbs/records.ipynb')
    said = []
    for file in files:
        name = os.path.relpath(file)
        if args.command == 'check': said += [f'{name}: {fault}' for fault in faults(file)]
        else:
            nb = json.loads(file.read_text('utf-8'))
            if not args.all and nb['metadata'].get('executed') == digest(nb): continue
            print(name, flush=True)
            try: execute(file)
            except Exception as e: said.append(f'{name}: not executed: {COLOUR.sub("", str(e))[-2000:]}')
    if said: print(*said, f'{len(said)} faults', sep='\n', file=sys.stderr)
    return 1 if said else 0


if __name__ == '__main__': sys.exit(main())
