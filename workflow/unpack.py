"""python workflow/unpack.py [DATA]

Lays out the images that lie beside the project as the configurations of the second paper name them: CIFAR-10's test and training images in
results/cifar10, every second photograph in results/photographs/explained and the others in results/photographs/training, each with the
classes of all, by which half of them can be told."""
import sys
from pathlib import Path

DATA = Path(sys.argv[1] if sys.argv[1:] else '../shared/realdata').resolve()

def main():
    sys.path.append(str(DATA))
    import realdata
    for split in ('test', 'train'): realdata.cifar10(split, 'results/cifar10')
    photographs = sorted((DATA/'imagenet-sample').iterdir())
    classes = '\n'.join(photo.name.partition('_')[0] for photo in photographs)
    for name, some in (('explained', photographs[0::2]), ('training', photographs[1::2])):
        folder = Path('results/photographs')/name
        folder.mkdir(parents=True, exist_ok=True)
        (folder/'wnids.txt').write_text(classes)
        for photo in some:
            if not (link := folder/photo.name).exists(): link.symlink_to(photo)

if __name__ == '__main__': main()
