"""The embedded demo: small model pairs, their task data, and the recipe that made both.

Importing this package loads nothing heavy. `prompts` holds the prompt templates, `grammar`
the generator of small programming problems, `train` the recipe.
"""
