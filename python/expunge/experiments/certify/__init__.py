"""The experiment on noise and accuracy: what four routes to a certified deletion ask of easy and of hard records."""

from expunge.experiments.certify.settings import CertifySettings, certify_preset

__all__ = ["CertifySettings", "certify_preset"]
