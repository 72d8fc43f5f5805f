"""scikit-learn estimators that learn, quote and unlearn."""
