"""A gateway to which one address of this machine is the open internet.

`python gateway_with_a_public_host.py ADDRESS ...`: nothing else of the guard is changed, so that a
test can be a stranger's web server, and redirect into what is still private.
"""

import sys
from ipaddress import ip_address

from epd_gateway import media_fetch
from epd_gateway.__main__ import main

if __name__ == "__main__":
    public = ip_address(sys.argv[1])
    is_public = media_fetch.is_public
    media_fetch.is_public = lambda address: address == public or is_public(address)
    sys.exit(main(sys.argv[2:]))
