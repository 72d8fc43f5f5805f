"""A mutation tester for this project: breaks one line at a time and says which changes no test notices.

``make mutation`` runs it; ``ARGS='--room accounting --sample 200 --seed 1'`` says how much. See CONTRIBUTING.md.
"""
