"""Integrated-gradient methods with and without IDGI.

The public names, each imported, and torch with it, when it is first used. The one file of the package
that is written by hand, but for its version, which nbdev writes."""
import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [
    'method', 'study', 'report', 'papers', 'cli', 'jobs', 'errors', 'files', 'records'], {
    'method.attribution': ['attribute', 'saliency', 'PathMethod', 'IntegratedGradients', 'GuidedIG', 'BlurIG', 'IDGI', 'NotFinite'],
    'method.gradients': ['probability', 'logit', 'contrast', 'sigmoid', 'output', 'predict', 'value_and_gradient', 'prepare'],
    'method.paths': ['Path', 'Curve', 'Point', 'StraightPath', 'BlurPath'],
    'method.guided': ['GuidedPath'],
    'method.references': ['ReferencePath', 'AdversarialPath'],
    'method.recalibration': [
        'Mean', 'ValidReferences', 'ValidInterpolations', 'IGUniform', 'IGSG', 'IGSQ', 'ExpectedGradients', 'AGI'],
    'method.diffid': ['diffid'],
    'method.densities': ['trace_estimate', 'score_matching', 'anti_score_matching', 'gradient_norm'],
    'method.ascent': ['ascend', 'perturbation'],
    'method.training': ['fit'],
    'method.rules': ['Rule', 'riemann', 'idgi', 'absolute', 'squares', 'along', 'trapezoid', 'trapezoid_idgi', 'second_order'],
    'method.information': ['information_curves'],
    'method.metrics': ['insertion', 'stability', 'energy_inside', 'pointing', 'patchiness', 'distance'],
    'study.models': ['load', 'Network'],
    'study.images': ['Embedded'],
    'errors': ['InputError'],
    'records': ['Method', 'Metric', 'Measurement', 'Claim', 'Paper'],
})
