"""Runs the tests on other kernels: the distribution's, in a virtual machine made from its packages.

Nothing is installed, and nothing needs root. One module, one job:

========== =====================================================================
archive    the distribution's packages, by an apt of our own
packages   files out of packages
cache      the folder in which what was fetched is kept
emulator   QEMU; whether hardware can help it
cpio       the first file system of a guest, which runs ``init.sh``
kernel     the kernels there are; one of them made ready
guest      one boot: a script run in it, its output and its files brought back
here       the same script on this machine's own kernel, in another root
root       the newest Python, in a root folder of its own
suite      the tests: on which kernels, Pythons and as which users; their results
skipped    what was skipped everywhere
table      the results as a page of the documentation
========== =====================================================================
"""
