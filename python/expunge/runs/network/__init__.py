"""Networks of a backbone and a certified head: what both together claim."""

from expunge.accounting import PrivateTraining
from expunge.runs.network.claim import SOURCES, JointClaim, joint_claim, whole_mu

__all__ = ["SOURCES", "JointClaim", "PrivateTraining", "joint_claim", "whole_mu"]
