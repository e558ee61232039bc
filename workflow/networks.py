"The trained networks of ../shared/realdata that take an argument, as a study names them: workflow/networks.py:resnet20."
import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2]/'shared'/'realdata'/'realdata.py'

def _realdata():
    spec = importlib.util.spec_from_file_location('realdata', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def resnet20():
    "ResNet-20 trained on CIFAR-10, with mean and std."
    return _realdata().cifar_resnet(20)

def resnet56():
    "ResNet-56 trained on CIFAR-10, with mean and std."
    return _realdata().cifar_resnet(56)
