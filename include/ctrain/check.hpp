/// \file  Floors 0 to 4 for a compiler alone: is a policy valid, does it fit, what will it do? Nothing runs.
#pragma once

#include <ctrain/memory/budget.hpp>
#include <ctrain/memory/report.hpp>
#include <ctrain/model/render.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/check.hpp>
