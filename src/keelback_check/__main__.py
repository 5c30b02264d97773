"""python -m keelback_check CERTIFICATE.json"""

from keelback_check import _exit

_exit()
