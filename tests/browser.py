"Chromium without a window, spoken to over a pipe, for the tests of what people look at. They skip where there is none."
import json, os, shutil, subprocess, tempfile
from base64 import b64decode
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


class Browser:
    "One tab. `problems` are what its console complained of, `asked` the addresses that it asked for."
    def __init__(self):
        if not CHROMIUM: pytest.skip('no chromium')
        self.folder, self.problems, self.asked, self.last = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), [], [], 0
        (its_in, self.out), (self.into, its_out) = os.pipe(), os.pipe()
        flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', '--no-first-run',
                 '--disable-background-networking', '--remote-debugging-pipe', f'--user-data-dir={self.folder.name}']
        pipes = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'
        self.process = subprocess.Popen(['bash', '-c', pipes, CHROMIUM, *flags, 'about:blank'], pass_fds=(its_in, its_out),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (its_in, its_out): os.close(end)
        self.buffer, self.session = b'', None
        tab = next(t for t in self('Target.getTargets')['targetInfos'] if t['type'] == 'page')
        self.session = self('Target.attachToTarget', targetId=tab['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self(f'{domain}.enable')

    def _next(self):
        "The next message, remembered if it is a complaint."
        while b'\0' not in self.buffer:
            if not (more := os.read(self.into, 1 << 16)): raise RuntimeError('the browser is gone')
            self.buffer += more
        message, self.buffer = self.buffer.split(b'\0', 1)
        message = json.loads(message)
        method, said = message.get('method'), message.get('params', {})
        if method == 'Runtime.exceptionThrown': self.problems.append(said['exceptionDetails'])
        if method == 'Log.entryAdded' and said['entry']['level'] == 'error': self.problems.append(said['entry'])
        if method == 'Runtime.consoleAPICalled' and said['type'] in ('error', 'warning'): self.problems.append(said)
        if method == 'Network.requestWillBeSent': self.asked.append(said['request']['url'])
        return message

    def __call__(self, method, **parameters):
        "The answer to a command of the DevTools protocol."
        self.last += 1
        command = dict(id=self.last, method=method, params=parameters) | ({'sessionId': self.session} if self.session else {})
        data = json.dumps(command).encode() + b'\0'
        while data: data = data[os.write(self.out, data):]
        while (message := self._next()).get('id') != self.last: pass
        if 'error' in message: raise RuntimeError(message['error'])
        return message['result']

    def open(self, file, width=1280, dark=False, print=False):
        "Shows a file in a window of that width."
        self('Emulation.setDeviceMetricsOverride', width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self('Emulation.setEmulatedMedia', media='print' if print else '',
             features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')])
        self('Page.navigate', url=Path(file).resolve().as_uri())
        while self._next().get('method') != 'Page.loadEventFired': pass

    def js(self, code):
        "The value of an expression, or of what it promises."
        found = self('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in found: raise RuntimeError(found['exceptionDetails'])
        return found['result'].get('value')

    def picture(self, whole=False):
        "What is seen, as PNG."
        return b64decode(self('Page.captureScreenshot', captureBeyondViewport=whole)['data'])

    def close(self):
        self('Browser.close')
        for end in (self.out, self.into): os.close(end)
        self.process.wait()
        self.folder.cleanup()
