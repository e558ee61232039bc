"Which kernel a notebook runs on, and what is said of one that dies."
import json, os, subprocess, sys
from contextlib import nullcontext

import nbformat, pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from idgi_repro import jobs
from idgi_repro.errors import InputError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "A function that executes a notebook of these cells; its `printed` gives what the first of them printed."
    monkeypatch.setattr(jobs, 'notebook', lambda name: tmp_path/'cell.ipynb')
    monkeypatch.setattr(jobs, 'check_parameters', lambda name, parameters: None)
    executed = tmp_path/'out'/'cell.ipynb'
    def run(*cells, **metadata):
        nbformat.write(new_notebook(cells=[new_code_cell(c) for c in cells], metadata=metadata), tmp_path/'cell.ipynb')
        jobs.execute('shard', executed, {})
    def printed():
        first, = [c for c in nbformat.read(executed, 4).cells if 'print(' in c.source]
        return ''.join(o['text'] for o in first.outputs).strip()
    run.printed = printed
    return run


def spec(*argv): return json.dumps(dict(argv=list(argv), display_name='another', language='python'))

INSTALLED = dict(another_python=spec('/usr/bin/python3', '-m', 'ipykernel_launcher', '-f', '{connection_file}'),
                 deleted=spec('/no/such/python3', '-m', 'ipykernel_launcher', '-f', '{connection_file}'),
                 ends_at_once=spec('/bin/false'), no_json='this is no specification', nothing=None)

@pytest.fixture
def install(tmp_path, monkeypatch):
    "A function that puts one of them under the name python3."
    def put(which):
        folder = tmp_path/'jupyter'/'kernels'/'python3'
        folder.mkdir(parents=True)
        if INSTALLED[which]: (folder/'kernel.json').write_text(INSTALLED[which])
        monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
        monkeypatch.setenv('JUPYTER_DATA_DIR', str(tmp_path/'jupyter'))
    return put

@pytest.mark.parametrize('installed', INSTALLED)
def test_the_interpreter_that_is_asked_for(installed, install):
    "Whatever is installed under the name python3."
    install(installed)
    assert jobs._kernel().kernel_spec.argv[0] == sys.executable

def test_a_kernel_that_runs_and_dies(install, runs):
    """Whatever is installed, and whatever kernel the notebook asks for, it is the command's interpreter; what it printed before it died
    stays."""
    install('deleted')
    with pytest.raises(InputError, match=r'cell.ipynb was killed \(signal 9\)'):
        runs('import os, signal, sys, idgi_repro; print(sys.executable)', 'os.kill(os.getpid(), signal.SIGKILL)',
             kernelspec=dict(name='my-environment', display_name='mine', language='python'))
    assert runs.printed() == sys.executable


@pytest.mark.parametrize('then', ('pass', '1/0'))
def test_a_kernel_ends_with_its_run(then, runs):
    "A study of hundreds of shards in one process must not have hundreds of kernels."
    with pytest.raises(PapermillExecutionError) if then == '1/0' else nullcontext(): runs('import os; print(os.getpid())', then)
    with pytest.raises(ProcessLookupError): os.kill(int(runs.printed()), 0)

DEATHS = [('os.kill(os.getpid(), signal.SIGKILL)', 'was killed (signal 9), as the system does where memory does not suffice'),
          ('os._exit(137)', 'was killed (signal 9), as the system does where memory does not suffice'),
          ('os.kill(os.getpid(), signal.SIGSEGV)', 'died of signal 11 (SIGSEGV), a fault in compiled code'),
          ('os._exit(3)', 'ended by itself with status 3')]

@pytest.mark.parametrize('code, said', DEATHS, ids=[code for code, _ in DEATHS])
def test_how_a_process_died(code, said):
    "By the status that the system gives; memory is named only where it may have been the reason."
    status = subprocess.run([sys.executable, '-S', '-c', f'import os, signal; {code}']).returncode
    error = jobs._failed(DeadKernelError(), 'cell.ipynb', status)
    assert isinstance(error, InputError) and f'cell.ipynb {said}' in str(error)
    assert ('memory' in str(error)) == ('memory' in said)


@pytest.mark.parametrize('name, value, said', [('MemoryError', '', 'memory does not suffice; see cell.ipynb'),
                                               ('InputError', 'so it is', 'so it is')])
def test_errors_of_the_notebook_are_not_deaths(name, value, said):
    error = jobs._failed(PapermillExecutionError(0, 1, 'code', name, value, []), 'cell.ipynb', None)
    assert isinstance(error, InputError) and str(error) == said

def test_any_other_error_of_the_notebook_stays_what_it_is():
    error = PapermillExecutionError(0, 1, 'code', 'ZeroDivisionError', 'division by zero', [])
    assert jobs._failed(error, 'cell.ipynb', None) is error


WORDS = {-9: 'memory', 137: 'memory', -11: 'SIGSEGV', 139: 'SIGSEGV', -7: 'SIGBUS', -6: 'SIGABRT', 134: 'SIGABRT', -15: 'SIGTERM',
         1: 'status 1', 128: 'status 128', 255: 'signal 127', -64: 'signal 64', None: 'without a word', 0: 'without a word'}

@pytest.mark.parametrize('status', WORDS)
def test_every_status_has_words(status):
    said = jobs._death(status)
    assert WORDS[status] in said and ('memory' in said) == (WORDS[status] == 'memory')
