#!/bin/sh
# What a newcomer meets: clones, runs the README's two commands in a fresh virtual environment, timed, opens the page in a browser and keeps
# what it saw.
#     tests/newcomer.sh [FOLDER] [COMMANDS]     FOLDER: where to clone to; COMMANDS: 'demo test' unless given
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$(mktemp -d)}
commands=${2:-demo test}
git clone --quiet "$here" "$folder/idgi_repro"
cd "$folder/idgi_repro"
/usr/bin/env time -f 'setup: %e s' make setup
for command in $commands; do /usr/bin/env time -f "make $command: %e s" make "$command"; done
/usr/bin/env time -f 'make demo again: %e s' make demo
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo 'no browser: the page was not opened'; exit 0; }
for size in 1280,2000 390,2000; do
    "$browser" --headless=new --no-sandbox --disable-gpu --window-size=$size --screenshot="$folder/page-${size%,*}.png" \
        "file://$PWD/figures/demo/index.html" 2>"$folder/browser.log"
done
echo "seen: $folder/page-1280.png $folder/page-390.png"
