"""Which sources are broken, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Sources (patterns below ``python/expunge``) and the tests (patterns below ``tests``) that answer for them."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


_RELEASES = (
    "test_certificate*.py",
    "test_ridge_estimators*.py",
    "test_record_ids*.py",
    "test_storage*.py",
    "test_ledger*.py",
    "test_cli*.py",
    "test_given_constants*.py",
    "test_noise_of_deletions*.py",
    "test_noise_warning*.py",
    "test_release_attack*.py",
    "test_unlearn_arguments*.py",
)

ROOMS: dict[str, Room] = {
    "accounting": Room(
        ("accounting/*.py", "accounting/*/*.py"),
        (
            "test_accounting_edges*.py",
            "test_discrete_gaussian*.py",
            "test_gdp*.py",
            "test_gaussian_pair*.py",
            "test_rdp*.py",
            "test_renyi_accounting*.py",
            "test_ridge_law*.py",
            "test_ridge_rounding*.py",
            "test_pair_error*.py",
            "test_power_sums*.py",
            "test_close_products*.py",
            "test_outward*.py",
            "test_ridge_outward*.py",
            "test_ridge_shifted*.py",
            "test_shifted*.py",
            "test_unlearning_accounting*.py",
            "test_clipped*.py",
            "test_published_forms*.py",
            "test_privacy_loss*.py",
            "test_calibration*.py",
            "test_certificate*.py",
            "test_estimates*.py",
            "test_float_mode*.py",
            "test_outward*.py",
            "test_result_status*.py",
            "test_validate*.py",
        ),
    ),
    "proof": Room(("proof/*.py", "runs/enclosures.py"), ("test_proof*.py",)),
    "calibration": Room(("calibration.py",), ("test_calibration*.py",)),
    "certificates": Room(
        ("certificates/*.py", "runs/*.py"), (*_RELEASES, "test_runs*.py", "test_noise*.py", "test_residual_program*.py")
    ),
    "estimators": Room(
        ("estimators/*.py",),
        (*_RELEASES, "test_estimators*.py", "test_masked_arrays*.py", "test_ridge_law*.py"),
    ),
    "ridge": Room(
        ("runs/ridge/*.py", "data/*_products.py", "data/block_sums.py", "data/statistics.py"),
        (
            "test_ridge*.py",
            "test_close_products*.py",
            "test_certificate*.py",
            "test_runs*.py",
            "test_estimators*.py",
            "test_noise*.py",
            "test_unlearn*.py",
        ),
    ),
    "certificates_residual": Room(
        ("certificates/residual/*.py", "runs/residual/claim.py", "runs/residual/answers.py"),
        (
            "test_residual_certificates.py",
            "test_residual_claim.py",
            "test_residual_evidence.py",
            "test_residual_page.py",
            "test_residual_program.py",
            "test_residual_tree.py",
        ),
    ),
    "residual_quotes": Room(
        ("runs/residual/quotes.py", "runs/residual/groups.py", "estimators/newton/quotes.py"),
        ("test_residual_quotes*.py", "test_residual_group_quotes*.py"),
    ),
    "ledger": Room(
        ("ledger/*.py", "_files/transaction.py", "_files/outputs.py"),
        ("test_ledger*.py", "test_residual_ledger.py", "test_transaction*.py", "test_cli*.py"),
    ),
    "files": Room(
        ("_files/__init__.py", "_files/archive.py", "_files/headed.py", "_files/sealed.py", "_files/values.py"),
        (
            "test_files*.py",
            "test_ledger*.py",
            "test_transaction*.py",
            "test_certificate*.py",
            "test_storage*.py",
            "test_scoring*.py",
        ),
    ),
    "scaling": Room(("data/scaling.py",), ("test_scaling*.py",)),
}
