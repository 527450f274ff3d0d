#!/bin/sh
# Says that it is the setup of the survey family: nobody runs it.
echo "survey setup"
