"""The words of the spoken sentences: many of each kind, and some that differ by one sound.

No two entries of one list sound alike in any accent that is used, so that hearing decides.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    """
    aaron abby abel adele agnes alan albert alex alfred alice amanda amos amy andrea andrew
    angela anna anthony arthur audrey barbara beatrice ben bernard beth bob brenda brian bridget
    bruce carl carla carmen caroline cecil charlotte chester chloe christine clara claudia colin
    connie craig cynthia daisy dan daphne darius david dean deborah denis diana dina donald
    doris dorothy douglas dylan edgar edith edmund edward elena eli elliott elsa emma eric
    esther ethan eva felix fiona florence frances frank fred gabriel gail gary george gilbert
    gloria gordon grace graham greta gus harold harriet hazel hector helen henry hilda hugo ida
    igor ingrid ivan ivy jack jacob jane jasper jean jeremy jim joan joel john joseph joshua
    joyce judith julia june justin karen kate keith ken kim kirk kyle larry laura lena leo
    leonard lewis lily linda lois lucas lucy luke mabel marcus margaret maria mark martha martin
    mary matthew maureen max melissa michael mike miles monica nancy naomi nathan neil nick nina
    noah nora norman olga oliver oscar pam pamela pat patrick paula pedro peter philip rachel
    ralph raymond rebecca rick rita rob robert roger ron rosa rupert ruth sam samuel sandra
    scott sharon sheila simon sonia sophie stanley steven susan sylvia tanya ted teresa thomas
    tim tina tobias tom trevor ursula vera victor vincent violet walter wanda wendy zack zelda
    """
)

LAST = _words(
    """
    abbott adams aldridge anderson archer atkins bailey baker barlow barnes barton bates becker
    bennett benson bishop blake bolton bowen bradley brennan briggs brooks burton butler calder
    cameron campbell carter chambers chapman clayton cohen coleman collins conrad cooper costa
    crawford crosby curtis dalton davis dawson dexter dixon donovan draper duncan eaton edison
    ellis evans falconer farmer fisher fleming fletcher forbes foster fowler fraser freeman
    fuller gardner garrison gibson gilmore goodwin gordon graves grayson griffin hamilton
    harding harper harrison hartley hawkins hayden henderson hicks higgins hoffman holland
    hopkins howard hudson hughes hunter ingram jackson jacobs jensen johnson jones keller kelly
    kendall kennedy klein lambert larson lawson lindsay logan lopez lynch madison malone
    marshall mason maxwell mccoy mendez miller mitchell monroe morgan morrison murphy nelson
    newman nolan norris norton obrien oconnor olsen osborne owens palmer parker parsons
    patterson pearson perkins porter potter powell preston quinn ramirez ramsey reynolds
    richards riley rivera roberts robinson rogers russell sanders saunders sawyer schmidt
    schneider shelton shepherd simmons simpson sinclair slater spencer stafford stanton stevens
    stewart stokes sullivan sutton tanner thompson tucker turner tyler vance vaughan wagner
    walker wallace walsh warner watkins watson webster weston whitman williams wilson winters
    woodward wright yates zimmerman
    """
)

NOUN = _words(
    """
    anchor apron arrow badge bag basket bat battery bear bell belt bench bicycle bin blade
    blanket bolt book boot bottle bowl box bracelet brick bridge broom brush bucket bundle
    button cab cabin cable cage camel camera candle canoe canvas cap cape card carpet carrot
    cart castle chain chair chart chimney chip clock coat coin collar comb cork couch crane
    crate crown cup curtain cushion dagger desk dial diary dish doll donkey drawer dress drum
    duck engine envelope fan feather fence fiddle file flag flute fork fossil fountain fox frame
    garage gate glove goat grate guitar hammer hammock hat hedge helmet hook horn horse hose
    jacket jar jewel jug kettle key kite ladder lamb lamp lantern lemon lens letter lever lid
    lock log map marble mask mat medal melon mirror mop mug nail napkin necklace needle nest net
    notebook nut onion oven paddle page paint pan parcel parrot pear pearl pen pencil pepper
    photo piano picture pie pillow pin pipe pistol plate plough plum pocket pot puppet puzzle
    quilt rabbit radio rake ribbon ring robe rocket roof rope rug ruler saddle sail sandal saw
    scarf seat sheet shell ship shirt shovel sign skirt sled snake soap sock sofa spade spoon
    stamp statue stool stove string suit sword table tail tank tent ticket tile toast toolbox
    torch towel toy tractor train tray trumpet trunk tunnel turtle umbrella van vase vest violin
    wagon wallet watch wheel whip whistle wig window wing wrench
    """
)

ADJECTIVE = _words(
    """
    amber ancient bitter black blank blunt bold brass brave brief bright broken bronze brown
    busy calm cheap clean clever cold copper cosy cracked crimson crooked curly damp dark dear
    dirty double dry dull dusty early elegant empty enormous faded fancy fast flat foreign fresh
    frozen funny gentle giant golden grand green grey heavy hidden hollow honest huge humble
    iron ivory jolly large lazy leather light little local lonely long loose loud lovely lucky
    metal modern muddy narrow new noisy odd old orange ordinary oval painted pale paper pink
    plain plastic polite private proper proud purple quick quiet rare ready rigid ripe rotten
    rough round royal rubber rusty scarlet secret shallow sharp shiny short silent silver simple
    single slim slow small smooth soft solid sour spare square steel sticky stiff stolen strange
    striped strong tall thick thin tidy tiny tough ugly useful vacant velvet violent warm wet
    white wide wild wooden yellow
    """
)

VERB = _words(
    """
    admired borrowed bought broke brought buried carried caught chose cleaned collected counted
    covered delivered described designed drew dropped dumped emptied examined exchanged fetched
    finished fixed forgot found gathered grabbed guarded hated held hid ignored inspected kept
    kicked kissed lifted loaded lost loved mailed measured mended mentioned misplaced moved
    noticed offered opened ordered owned packed paid photographed picked placed planned polished
    praised pulled pushed reached recognised refused removed repaired replaced returned rolled
    saved searched shook showed sketched smashed sold sorted stole studied swapped tested threw
    touched traded trusted unpacked unwrapped used wanted washed weighed wrapped
    """
)

PLACE = _words(
    """
    airport avenue bakery bank barn basement bay beach brewery cafe camp canal cathedral cellar
    chapel church cinema clinic college corner cottage courthouse desert embassy factory farm
    ferry field forest garden gallery hall harbour hill hospital hotel hut island jail kitchen
    laboratory lake library lighthouse market meadow mill museum office palace park pharmacy
    pier plaza pond prison quarry ranch restaurant river school shore square stable stadium
    station studio suburb swamp temple theatre tower university valley village warehouse
    waterfall workshop zoo
    """
)

CITY = _words(
    """
    aberdeen algiers amsterdam athens baltimore bangkok barcelona belfast berlin bombay boston
    brussels budapest cairo calgary canberra cardiff chicago copenhagen dallas damascus delhi
    denver detroit dublin edinburgh florida frankfurt geneva glasgow hamburg havana helsinki
    houston istanbul jakarta jerusalem kansas kingston leeds lisbon liverpool london madrid
    malta manchester melbourne memphis mexico miami milan montreal moscow munich nairobi naples
    norway ottawa oxford panama paris peru philadelphia poland portland prague quebec rome salem
    seattle seoul siberia sweden sydney texas tokyo toronto venice vienna warsaw york zurich
    """
)

JOB = _words(
    """
    actor barber builder captain carpenter chemist clerk coach cook dancer dentist detective
    doctor driver editor engineer florist gardener grocer guard hunter janitor jeweller judge
    lawyer librarian mayor mechanic merchant nurse officer painter pianist pilot plumber poet
    priest professor sailor scholar sculptor singer soldier surgeon tailor teacher waiter weaver
    writer
    """
)

TIME = _words(
    """
    monday tuesday wednesday thursday friday saturday sunday january february march april may
    june july august september october november december
    """
)
DAY, MONTH = TIME[:7], TIME[7:]

UNIT = _words(
    """
    dollars pounds euros rubles metres feet miles inches yards litres gallons bottles boxes bags
    barrels kilos tons minutes hours days weeks months years pages steps points people students
    """
)

ADVERB = _words(
    """
    again alone already always angrily badly calmly carefully cheerfully eagerly easily finally
    foolishly gladly happily hardly honestly instantly kindly lately loudly luckily never nearly
    often once patiently politely promptly quickly quietly rarely recently sadly secretly seldom
    silently slowly softly soon sternly suddenly together twice warmly wisely yesterday
    """
)

SMALL_NUMBERS = _words(
    """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
    """
)
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
