"""The report: one self-contained HTML page per run or study, drawn from what stands in the folder and from nothing else.

folder ──facts──> what was found ──remarks──> what that means, in words ──build──> the page (templates/)
"""
