"""Small models of many architectures, written from their public shapes, to hold `GradNorms` against single examples."""
