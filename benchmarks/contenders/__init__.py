"""Those who train in the `training` suite.

A contender is a function of the job that imports what it needs and returns a function of the arrays, which returns a
`Trainer`. All start from the same params, see the same rows in the same order, and run the same optimizer in float32.
"""
