"""Detects where the scene of an aligned pair changed, beyond what noise explains.

    mask            the entry point; combines change, exposure and hot pixels into a mask
    moments         sums over blocks of 4x4 cells, in one pass over both frames; the rest works on blocks
    nuisance        residual shift, response, drift of the light, row and column noise: estimated and removed
    noise           variance of the difference as a function of the level, and systematic errors, estimated on the pair
    evidence        tests of boxes of blocks of growing size
    box_statistics  their statistics: mean, shade, energy, excess variance
    region          grows what the tests detected to the full extent of the change

The null hypothesis for a block: gt - gain * noisy has mean response(g) + drift and variance slope * g + floor per cell.
"""
