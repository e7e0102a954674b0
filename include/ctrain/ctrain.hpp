/// \file  Everything a host program needs: policies, the trainer, files.
#pragma once

#include <ctrain/io/finetune.hpp>
#include <ctrain/policy/presets.hpp>
