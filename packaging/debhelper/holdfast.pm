#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Runs dh_holdfast: Build-Depends: dh-sequence-holdfast, or dh $@ --with=holdfast.

use strict;
use warnings;

# After the command whose work it corrects: also when debian/rules overrides that one.
insert_after('dh_installsystemd', 'dh_holdfast');

1;
